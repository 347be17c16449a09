#!/bin/sh
# exports.sh <plugin>...: each exports quantplug_entry_v1 and nothing else, and has no STB_GNU_UNIQUE symbol, as it is and after strip.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checked=0
check() {   # check <file> <how>
    [ -e "$1" ] || { echo "FAILED: $1 is not there: build it first"; exit 1; }
    exported=$(nm -D --defined-only "$1" | awk '{print $NF}')
    [ "$exported" = quantplug_entry_v1 ] || { echo "FAILED: $1 ($2) exports: $exported"; exit 1; }
    if readelf -sW --dyn-syms "$1" | grep -w UNIQUE; then echo "FAILED: $1 ($2) has the STB_GNU_UNIQUE symbols above"; exit 1; fi
    readelf -dW "$1" | grep -E 'TEXTREL' && { echo "FAILED: $1 ($2) has text relocations"; exit 1; }
    checked=$((checked + 1))
}
for plugin in "$@"; do
    check "$plugin" "as built"
    cp "$plugin" "$work/stripped.so"
    strip "$work/stripped.so"
    check "$work/stripped.so" stripped
    echo "$plugin: one symbol"
done
[ $checked -gt 0 ]
