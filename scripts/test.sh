#!/usr/bin/env bash
# From a fresh Debian machine: installs packages, builds, runs every test. Arguments go to ctest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh clang python3
# ccache: a clone in another folder finds what an earlier one compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
cuda=AUTO
command -v nvcc >/dev/null && cuda=ON
cmake --preset release -DQUANTPLUG_CUDA="${QUANTPLUG_CUDA:-$cuda}"
cmake --build --preset release
ctest --preset release -j "$(nproc)" "$@"
