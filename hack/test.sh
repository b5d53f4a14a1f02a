#!/usr/bin/env bash
# Runs every test, in two halves side by side, since most of them wait: tests/cluster, fairness and outage are one half,
# and what they say is shown when the others are done. Wants VALET_TOOLS; arguments go to `cargo test`, which then runs
# nothing side by side.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$#" -gt 0 ]; then
  exec cargo test --workspace "$@"
fi
# Most tests wait most of the time, for a key to end or a store to answer.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
cargo test --workspace --no-run --quiet
said=$(mktemp)
first=''
second=''
# Each half is a process group of its own (set -m), so that its tests end with it: cargo does not pass a signal on to them.
# bash takes a signal only while it waits, so it waits for both.
set -m
stop() {
  for half in $first $second; do
    kill -TERM -- "-$half" 2>/dev/null || true
  done
}
trap 'rm -f "$said"' EXIT
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM HUP
# The patterns part the tests in two, whatever comes: names that begin with cl, f or o, and all others.
cargo test --no-fail-fast --test 'cl*' --test 'f*' --test 'o*' >"$said" 2>&1 </dev/null &
first=$!
failed=()
cargo test --workspace --no-fail-fast --lib --bins --test 'c[!l]*' --test '[!cfo]*' </dev/null &
second=$!
wait "$second" || failed+=("some that ran here")
cargo test --workspace --doc </dev/null &
second=$!
wait "$second" || failed+=("examples in the documentation of the code")
wait "$first" || failed+=("some of tests/cluster, fairness and outage")
cat "$said"
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
