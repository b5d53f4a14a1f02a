#!/usr/bin/env bash
# Runs all tests, in two groups in parallel, because most tests spend their time waiting. The output of the first group appears when
# the second group is done. The script needs VALET_TOOLS. With arguments, it runs one `cargo test` with these arguments instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$#" -gt 0 ]; then
  exec cargo test --workspace "$@"
fi
# The targets of the first group. All other targets are in the second group. Both groups take about the same time.
first_group=(cluster clocks fairness outage)
first=() second=()
for main in tests/*/main.rs; do
  target=$(basename "$(dirname "$main")")
  case " ${first_group[*]} " in
    *" $target "*) first+=(--test "$target") ;;
    *) second+=(--test "$target") ;;
  esac
done
if [ "${#first[@]}" -ne $((2 * ${#first_group[@]})) ]; then
  echo "hack/test.sh: a target of the first group does not exist: ${first_group[*]}" >&2
  exit 1
fi
# Most tests spend their time waiting, for example until a credential expires or a store answers.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
cargo test --workspace --no-run --quiet
said=$(mktemp)
first_process=''
second_process=''
# Each group is a separate process group (set -m), so that a signal also stops its tests: cargo does not forward signals. bash
# handles a signal only in `wait`, so both groups run in the background.
set -m
stop() {
  for group in $first_process $second_process; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
}
trap 'rm -f "$said"' EXIT
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM HUP
cargo test --no-fail-fast "${first[@]}" >"$said" 2>&1 </dev/null &
first_process=$!
failed=()
cargo test --workspace --no-fail-fast --lib --bins --test harness "${second[@]}" </dev/null &
second_process=$!
wait "$second_process" || failed+=("tests of the second group")
cargo test --workspace --doc </dev/null &
second_process=$!
wait "$second_process" || failed+=("documentation tests")
wait "$first_process" || failed+=("tests of the first group (${first_group[*]})")
cat "$said"
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
