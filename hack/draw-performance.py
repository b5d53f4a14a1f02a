#!/usr/bin/env python3
"""Draws the main results of the benchmark as an SVG image, from the raw results in docs/performance.md.

    hack/draw-performance.py

The script writes docs/images/performance.svg. Each bar shows the median of the rounds. A thin line shows the smallest and the
largest result, if there is more than one round.
"""

import pathlib
import re
import sys
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance.md"
IMAGE = ROOT / "docs/images/performance.svg"

LABELS, BARS, VALUES, LINE, TITLE = 330, 440, 110, 26, 46
WIDTH = LABELS + BARS + VALUES

# Each panel: its title, the largest value of its axis, a marked value, the unit, and its bars. A bar has a label and the name of
# a result.
PANELS = [
    (
        "Speed in relation to a bare client (1.0: as fast as the client)",
        1.5,
        1.0,
        "",
        [
            ("1,000 DownloadGrants, one namespace", "DownloadGrants: share of A3"),
            ("1,000 DownloadGrants, ten namespaces", "DownloadGrants in ten namespaces: share of A3"),
            ("1,000 UploadGrants, one namespace", "UploadGrants: share of A3"),
            ("10,000 DownloadGrants, one namespace", "large burst of DownloadGrants: share of A3"),
            ("10,000 DownloadGrants, ten namespaces", "large burst of DownloadGrants in ten namespaces: share of A3"),
            ("1,000 DownloadGrants, two shards", "two shards: share of A3"),
            ("deletions of 2,000 expired Secrets", "expiry: share of the bare client's deletions"),
            ("simple operator, 1,000 grants", "simple operator: share of A3"),
        ],
    ),
    (
        "CPU time in relation to the API server and etcd",
        0.25,
        None,
        "",
        [
            ("DownloadGrants", "DownloadGrants: operator CPU / control plane CPU"),
            ("UploadGrants", "UploadGrants: operator CPU / control plane CPU"),
            ("simple operator", "simple operator: operator CPU / control plane CPU"),
        ],
    ),
    (
        "Memory of the operator",
        400,
        None,
        " MiB",
        [
            ("no grants", "memory without grants, MiB"),
            ("10,000 live grants", "memory with 10000 live grants, MiB"),
            ("100,000 live grants", "memory with 100000 live grants, MiB"),
        ],
    ),
]

STYLE = """
    .paper { fill: #ffffff; stroke: #d0d7de; }
    .bar   { fill: #54aeff; }
    .other { fill: #afb8c1; }
    .range { stroke: #1f2328; stroke-width: 1.5; }
    .mark  { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 5 4; }
    text   { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328; }
    .name  { font-weight: 600; font-size: 15px; }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117; stroke: #30363d; }
      .bar   { fill: #1f6feb; }
      .other { fill: #484f58; }
      .range { stroke: #e6edf3; }
      text   { fill: #e6edf3; }
    }
"""


def results(page):
    """Returns the minimum, the median and the maximum of each result."""
    found = {}
    for line in page.splitlines():
        match = re.match(r"(\S.*?) {2,}([\d.]+) +([\d.]+) +([\d.]+)(?: |$)", line)
        if match:
            found[match[1]] = tuple(float(number) for number in match.groups()[1:])
    return found


def draw(found):
    parts, described, top = [], [], 16
    for title, most, marked, unit, bars in PANELS:
        parts.append(f'<text class="name" x="20" y="{top + 22}">{escape(title)}</text>')
        top += TITLE - 8
        first = top
        for label, name in bars:
            if name not in found:
                sys.exit(f"{PAGE.relative_to(ROOT)}: there is no result {name!r}")
            low, median, high = found[name]
            across = lambda value: LABELS + min(value, most) / most * BARS
            kind = "other" if label.startswith("simple") else "bar"
            parts.append(f'<text x="{LABELS - 10}" y="{top + 16}" text-anchor="end">{escape(label)}</text>')
            parts.append(f'<rect class="{kind}" x="{LABELS}" y="{top + 3}" width="{across(median) - LABELS:.1f}" height="{LINE - 8}"/>')
            if high > low:
                y = top + LINE / 2 - 1
                parts.append(f'<line class="range" x1="{across(low):.1f}" y1="{y}" x2="{across(high):.1f}" y2="{y}"/>')
            shown = f"{median:.0f}{unit}" if unit else f"{median:.2f}"
            end = across(max(median, high if high > low else median))
            parts.append(f'<text x="{end + 8:.1f}" y="{top + 16}">{shown}</text>')
            described.append(f"{label}: {shown}")
            top += LINE
        if marked is not None:
            x = LABELS + marked / most * BARS
            parts.append(f'<line class="mark" x1="{x:.1f}" y1="{first - 2}" x2="{x:.1f}" y2="{top}"/>')
        top += 12
    height = top + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title desc">',
            '  <title id="title">Results of the benchmark</title>',
            f'  <desc id="desc">{escape("; ".join(described))}</desc>',
            f"  <style>{STYLE}  </style>",
            f'  <rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            *(f"  {part}" for part in parts),
            "</svg>",
            "",
        ]
    )


IMAGE.write_text(draw(results(PAGE.read_text())))
