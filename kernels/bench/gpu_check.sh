#!/usr/bin/env bash
# What this library does on an NVIDIA GPU, in one run of about ten minutes: tests of every kernel against the CPU's
# references, compute-sanitizer, bandwidth, sweeps, whole models, and a real model beside the CPU.
#
#   kernels/bench/gpu_check.sh pack [FOLDER:exl2|gptq ...]   where quantplug builds: fills .gpu/ (ignored by git) with the
#       headers that a bare GPU machine lacks, and with models and their ids (by build/release/bin/quantplug tokenize of the
#       folder's or its parent's eval.txt)
#   kernels/bench/gpu_check.sh [run] [OUT]                   on the GPU machine: nvcc, CMake and .gpu/ are all it needs.
#       OUT (default build/gpu/results) gets gpu_check.json, steps.jsonl, logs; the table is printed last
#   kernels/bench/gpu_check.sh shim [OUT]                    the same steps without a GPU, kernels on the CPU, small sizes
#
# Commit OUT/gpu_check.json and OUT/steps.jsonl under kernels/bench/results/ as CARD-DATE.*. The card's settings are left
# as they are found.
set -uo pipefail
cd "$(dirname "$0")/../.."
mode=run
case ${1:-} in pack | run | shim) mode=$1; shift ;; esac
root=$PWD

if [ "$mode" = pack ]; then
  rm -rf .gpu && mkdir -p .gpu/prefix/{include,lib/cmake,share/cmake} .gpu/models
  cp -r /usr/include/{nlohmann,doctest} .gpu/prefix/include/
  cp -r /usr/lib/cmake/doctest .gpu/prefix/lib/cmake/
  cp -r /usr/share/cmake/nlohmann_json .gpu/prefix/share/cmake/
  n=0
  for model in "$@"; do
    folder=${model%:*} n=$((n + 1))
    cp -rL "$folder" ".gpu/models/$n"
    chmod -R u+w ".gpu/models/$n"
    echo "${model##*:}" > ".gpu/models/$n.format"
    text=$folder/eval.txt
    [ -f "$text" ] || text=$folder/../eval.txt
    build/release/bin/quantplug tokenize -m "$folder" -f "$text" --json | tr -cs '0-9' ' ' > ".gpu/models/$n.ids"
  done
  du -sh .gpu
  exit 0
fi

out=${1:-build/gpu/results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
build=$root/build/gpu
: > "$out/steps.jsonl"
failed=0

# step NAME SECONDS COMMAND...: a line of steps.jsonl, the output in NAME.log. A hang loses one step.
step() {
  local name=$1 limit=$2 start rc
  shift 2
  start=$(date +%s)
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  rc=$?
  echo "{\"step\": \"$name\", \"rc\": $rc, \"seconds\": $(($(date +%s) - start))}" >> "$out/steps.jsonl"
  [ $rc -eq 0 ] || { failed=1; echo "== $name: exit $rc"; tail -15 "$out/$name.log"; }
  return $rc
}

options=(-DCMAKE_BUILD_TYPE=Release -DQUANTPLUG_CORE_ONLY=ON -DQUANTPLUG_CUDA="$([ $mode = shim ] && echo SHIM || echo ON)")
command -v ninja >/dev/null && options+=(-G Ninja)
[ -d .gpu/prefix ] && options+=(-DCMAKE_PREFIX_PATH="$root/.gpu/prefix")
[ $mode = shim ] && build=$root/build/gpu-shim
if [ $mode = run ]; then
  step machine 20 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,memory.used,power.limit --format=csv
fi
step configure 60 cmake -S . -B "$build" "${options[@]}" || exit 1
step build 420 cmake --build "$build" --target qp_gpu_check test_kernels_cuda qp_compare_devices -j "$(nproc)" || exit 1

step kernels 180 "$build/tests/test_kernels_cuda"
if [ $mode = run ] && command -v compute-sanitizer >/dev/null; then
  # Small cases of every kernel: the tools slow a kernel down by ten to a hundred times.
  for tool in memcheck racecheck initcheck synccheck; do
    step "sanitizer-$tool" 60 compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/test_kernels_cuda" \
      -tc='two steps under way*,what a step is asked for*'
    grep -q 'Device not supported' "$out/sanitizer-$tool.log" &&
      echo "{\"step\": \"sanitizer\", \"refused\": \"the tool does not support this device\"}" >> "$out/steps.jsonl" && break
  done
fi
small=()
[ $mode = shim ] && small=(--shim)
step check 300 "$build/bin/qp_gpu_check" "$out/gpu_check.json" ${small[@]+"${small[@]}"}
for format in .gpu/models/*.format; do
  [ -f "$format" ] || continue
  model=${format%.format}
  rows=(--rows 40)
  [ $mode = shim ] && rows=(--rows 1 --ctx 96)
  step "compare-$(basename "$model")" 60 "$build/tests/qp_compare_devices" "$model" "$(cat "$format")" "$model.ids" "${rows[@]}"
  step "split-$(basename "$model")" 60 "$build/tests/qp_compare_devices" "$model" "$(cat "$format")" "$model.ids" "${rows[@]}" --split
  cat "$out/compare-$(basename "$model").log" "$out/split-$(basename "$model").log" >> "$out/steps.jsonl"
done
if [ $mode = run ] && command -v ncu >/dev/null; then
  step counters 90 ncu --clock-control none --launch-skip 20 --launch-count 6 \
    --metrics dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__inst_issued.avg.pct_of_peak_sustained_active,gpu__time_duration.sum \
    "$build/bin/qp_gpu_check" "$out/counters.json" products
fi
tail -5 "$out/kernels.log"
cat "$out/check.log"
cat "$out"/compare-*.log "$out"/split-*.log 2>/dev/null
exit $failed
