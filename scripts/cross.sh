#!/usr/bin/env bash
# Programs for other machines, under emulation. Run by hand: it needs minutes where nothing is compiled yet.
#   1. the x86-64 build on a processor without AVX: the portable path is chosen, and nothing compiled for AVX runs;
#   2. kernels and the engine's core cross-built for aarch64, with their tests.
# usage: scripts/cross.sh [build folder of the release preset]
set -euo pipefail
cd "$(dirname "$0")/.."
native=${1:-build/release}
cross=build/aarch64
scripts/packages.sh g++-aarch64-linux-gnu qemu-user
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# Left out: millions of values of one function each, and threads, which emulation makes slow.
short=(--test-case-exclude='exp *,tanh *,sin and cos*,log *,*threads*')

echo "== x86-64 without AVX (Westmere)"
cmake --preset release -B "$native" >/dev/null
cmake --build "$native" --target test_kernels quantplug quantplug_gptq >/dev/null
westmere=(qemu-x86_64 -cpu Westmere)
timeout 300 "${westmere[@]}" "$native/tests/test_kernels" "${short[@]}" | tail -3
generate=("$native/bin/quantplug" generate -m tests/data/tiny/llama -p "one two" -n 6 --temperature 0)
here=$("${generate[@]}" 2>/dev/null)
there=$("${westmere[@]}" "${generate[@]}" 2>/dev/null)
[ "$here" = "$there" ] || { echo "generate differs: '$here' here, '$there' without AVX" >&2; exit 1; }
echo "generate: the same text as on this processor"

echo "== aarch64"
prefix=$cross/prefix
mkdir -p "$prefix"/{include,lib/cmake,share/cmake}
cp -r /usr/include/{nlohmann,doctest} "$prefix/include/"
cp -r /usr/lib/cmake/doctest "$prefix/lib/cmake/"
cp -r /usr/share/cmake/nlohmann_json "$prefix/share/cmake/"
cmake -G Ninja -S . -B "$cross" -DCMAKE_BUILD_TYPE=Release -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" \
  -DQP_CROSS_PREFIX="$PWD/$prefix" -DQUANTPLUG_CORE_ONLY=ON -DQUANTPLUG_CUDA=OFF >/dev/null
cmake --build "$cross" >/dev/null
arm=(qemu-aarch64 -L /usr/aarch64-linux-gnu)
timeout 600 "${arm[@]}" "$cross/tests/test_kernels" "${short[@]}" | tail -3
timeout 600 "${arm[@]}" "$cross/tests/test_engine" | tail -3
