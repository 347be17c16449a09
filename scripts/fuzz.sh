#!/usr/bin/env bash
# scripts/fuzz.sh SECONDS [TARGET ...]: runs each fuzz target (default: all) that long on its kept corpus, with ASan and UBSan.
# What it finds is written to build/fuzz/findings/; new corpus entries stay in build/fuzz/corpus/ until someone keeps them.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET ...]}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors gguf config tokenizer chat dynsym)
scripts/packages.sh clang libclang-rt-dev
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]/#/fuzz_}"
mkdir -p build/fuzz/findings
failed=0
run() {
  mkdir -p "build/fuzz/corpus/$1"
  build/fuzz/fuzz/fuzz_"$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="build/fuzz/findings/$1-" "build/fuzz/corpus/$1" "tests/fuzz/corpus/$1" >"build/fuzz/$1.log" 2>&1 ||
    { echo "fuzz_$1: FOUND something, see build/fuzz/$1.log"; tail -n 30 "build/fuzz/$1.log"; return 1; }
  echo "fuzz_$1: $(grep -o 'number_of_executed_units: *[0-9]*' "build/fuzz/$1.log" | grep -o '[0-9]*') inputs in ${seconds} s, nothing found"
}
pids=()
for t in "${targets[@]}"; do
  run "$t" &
  pids+=($!)
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=1; done
done
for p in "${pids[@]}"; do wait "$p" 2>/dev/null || { [ $? -eq 127 ] || failed=1; }; done
exit $failed
