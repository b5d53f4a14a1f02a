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
trap 'rm -f "$said"' EXIT
# The patterns part the tests in two, whatever comes: names that begin with cl, f or o, and all others.
cargo test --no-fail-fast --test 'cl*' --test 'f*' --test 'o*' >"$said" 2>&1 &
first=$!
failed=()
cargo test --workspace --no-fail-fast --lib --bins --test 'c[!l]*' --test '[!cfo]*' || failed+=("some that ran here")
cargo test --workspace --doc || failed+=("examples in the documentation of the code")
wait "$first" || failed+=("some of tests/cluster, fairness and outage")
cat "$said"
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
