#!/usr/bin/env python3
"""Updates docs/performance.md with the results of `make bench`.

    make bench | tee bench.log
    hack/performance-page.py bench.log

The script replaces the values in the tables of the page and the raw results. Afterwards, hack/draw-performance.py draws the
picture. The texts between the tables stay, so read them again.
"""

import datetime
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/performance.md"

# The results of each row of the tables. The first text is the beginning of the row. `{}` is the median of a result, and `{r}` also
# shows the smallest and the largest value.
BURSTS = ("DownloadGrants", "DownloadGrants in ten namespaces", "UploadGrants")
LARGE = "large burst of DownloadGrants"
STEADY = "{} at ten per second: {} of grant to Secret / {} of the create request"
FLOOD = "quiet namespace during a flood: {} of grant to Secret / {} of the create request"


def rows():
    """Returns the beginning of each row, the format of its value, and the names of the results."""
    for burst, text in zip(
        BURSTS,
        (
            "burst of 1,000 DownloadGrants in one namespace, share",
            "the same in ten namespaces, share",
            "burst of 1,000 UploadGrants",
        ),
    ):
        yield text, "{r}", [f"{burst}: share of A3"]
    yield "the same three bursts", "{r}, {r}, {r}", [f"{burst}: share of A2" for burst in BURSTS]
    yield "simple operator", "{r}", ["simple operator: share of A3"]
    yield "burst of 10,000 DownloadGrants in one", "{}", [f"{LARGE}: share of A3"]
    yield "burst of 10,000 DownloadGrants in ten", "{}", [f"{LARGE} in ten namespaces: share of A3"]
    yield "two shards", "{}", ["two shards: share of A3"]
    writes = ["DownloadGrants: POST secrets per grant", "DownloadGrants: PATCH downloadgrants/status per grant"]
    yield "writes to the API server", "{} + {}: the Secret and the status", writes
    reads = [f"{burst}: GET secrets per grant" for burst in ("DownloadGrants", LARGE)]
    yield "reads of Secrets for each new grant", "{} and {}", reads
    cpu = "{}: operator CPU / control plane CPU"
    yield "CPU time of the operator / of", "{r}", [cpu.format("DownloadGrants")]
    yield "the same for UploadGrants", "{r}, {r}", [cpu.format("UploadGrants"), cpu.format("simple operator")]

    yield "ten DownloadGrants per second: median", "{r}", [STEADY.format("DownloadGrant", "p50", "p50")]
    yield "the same for the 99th", "{r}", [STEADY.format("DownloadGrant", "p99", "p99")]
    yield "ten UploadGrants per second, medians", "{r}", [STEADY.format("UploadGrant", "p50", "p50")]
    yield "ten UploadGrants per second, 99th", "{r}", [STEADY.format("UploadGrant", "p99", "p99")]
    yield "ten DownloadGrants per second while", "{r}", [FLOOD.format("p50", "p50")]
    yield "the same, 99th percentiles", "{r}", [FLOOD.format("p99", "p99")]

    yield "2,000 credentials that expire", "{r}", ["expiry: share of the bare client's deletions"]
    yield "last of these 2,000", "{r} s after the expiry", ["expiry: last Secret deleted, seconds after the expiry"]
    requests = ("DELETE secrets", "PATCH downloadgrants/status", "GET secrets")
    counts = [f"expiry: {request} per grant" for request in requests]
    yield "requests for each grant", "{} deletions, {} statuses, {} reads of Secrets", counts
    yield "last of the 2,000 statuses", "{r} s after the expiry", ["expiry: last status, seconds after the expiry"]

    requests = ("GET secrets", "PUT secrets", "PATCH downloadgrants/status")
    counts = [f"renewal: {request} per grant" for request in requests]
    yield "renewals of 1,000 credentials: requests", "{} read and {} write of the Secret, {} status", counts
    yield "renewals of 1,000 credentials: Secrets", "{}", ["renewal: Secrets that were deleted"]
    pending = "pending uploads, in one minute: "
    polls = [pending + "HEAD requests to the store per grant", pending + "GET secrets per grant"]
    text = "{} HEAD to the store; {} reads of Secrets, no writes"
    yield "1,000 UploadGrants whose objects", text, polls

    yield "memory without grants", "{} MiB", ["memory without grants, MiB"]
    yield "10,000 live grants: memory, after", "{} MiB", ["memory with 10000 live grants, MiB"]
    restart = "restart with 10000 live grants: "
    yield "10,000 live grants: memory, 30 s", "{} MiB", [restart + "memory, MiB"]
    yield "10,000 live grants: restart, ready", "{} s", [restart + "seconds until ready"]
    yield "10,000 live grants: restart, a new", "{} s", [restart + "seconds until a new grant is served"]
    yield "10,000 live grants: restart, reads", "{}", [restart + "GET secrets per live grant"]
    yield "10,000 live grants: restart, writes", "{}", [restart + "PATCH downloadgrants/status per live grant"]
    idle = "idle with 10000 live grants: "
    yield "10,000 live grants: idle, CPU", "{} s", [idle + "operator CPU seconds per minute"]
    yield "10,000 live grants: idle, reads", "{}", [idle + "GET secrets per minute"]
    yield "100,000 live grants: memory, after", "{} MiB", ["memory with 100000 live grants, MiB"]


def results(log):
    """Returns the lines of the last table in the log, and its results by name."""
    lines = log.split("\n")
    start = max(n for n, line in enumerate(lines) if re.match(r" +min +median +max", line))
    table = [lines[start].rstrip()]
    found = {}
    for line in lines[start + 1 :]:
        match = re.match(r"(\S.*?) {2,}(-?[\d.]+) +(-?[\d.]+) +(-?[\d.]+)(?: |$)", line)
        if not match:
            break
        table.append(line.rstrip())
        found[match[1]] = match.groups()[1:]
    return table, found


def value(form, names, found):
    """Returns the text of one row. A request that never occurred has no result, so its value is 0."""
    texts = []
    for name in names:
        least, median, most = found.get(name, ("0.00",) * 3)
        if name.endswith("MiB"):
            median = f"{float(median):.0f}"
        texts.append((median, f"{median} ({least} to {most})"))
    parts = re.split(r"\{(r?)\}", form)
    for n, kind in enumerate(parts[1::2]):
        parts[2 * n + 1] = texts[n][1 if kind else 0]
    return "".join(parts)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    table, found = results(pathlib.Path(sys.argv[1]).read_text())
    page = PAGE.read_text()
    for begin, form, names in rows():
        if all(name not in found for name in names):
            print(f"no result for: {begin}")
            continue
        line = re.compile(rf"^(\| {re.escape(begin)}[^|]*\|) [^|]* \|$", re.MULTILINE)
        page, count = line.subn(lambda match: f"{match[1]} {value(form, names, found)} |", page)
        if count != 1:
            sys.exit(f"docs/performance.md has {count} rows that begin with: {begin}")
    page = re.sub(r"```text\n.*?```", lambda _: "```text\n" + "\n".join(table) + "\n```", page, flags=re.DOTALL)
    page = re.sub(r"measured on \d{4}-\d\d-\d\d", f"measured on {datetime.date.today()}", page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
