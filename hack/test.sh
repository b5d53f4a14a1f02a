#!/usr/bin/env bash
# Runs all tests, in two halves in parallel, because most tests spend their time waiting. The first half is tests/cluster, fairness
# and outage; its output appears when the second half is done. The script needs VALET_TOOLS. With arguments, it runs one `cargo
# test` with these arguments instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$#" -gt 0 ]; then
  exec cargo test --workspace "$@"
fi
# Most tests spend their time waiting, for example until a credential expires or a store answers.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
cargo test --workspace --no-run --quiet
said=$(mktemp)
first=''
second=''
# Each half is a separate process group (set -m), so that a signal also stops its tests: cargo does not forward signals. bash
# handles a signal only in `wait`, so both halves run in the background.
set -m
stop() {
  for half in $first $second; do
    kill -TERM -- "-$half" 2>/dev/null || true
  done
}
trap 'rm -f "$said"' EXIT
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM HUP
# The patterns divide all present and future tests: names that begin with cl, f or o, and all other names.
cargo test --no-fail-fast --test 'cl*' --test 'f*' --test 'o*' >"$said" 2>&1 </dev/null &
first=$!
failed=()
cargo test --workspace --no-fail-fast --lib --bins --test 'c[!l]*' --test '[!cfo]*' </dev/null &
second=$!
wait "$second" || failed+=("tests of the second half")
cargo test --workspace --doc </dev/null &
second=$!
wait "$second" || failed+=("documentation tests")
wait "$first" || failed+=("tests in tests/cluster, fairness or outage")
cat "$said"
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
