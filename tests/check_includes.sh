#!/bin/sh
# check_includes.sh <source folder>: each room includes only what it may. A room's includes are written from the root ("engine/base/error.h")
# or, for plugin_api, as <quantplug/...>.
set -eu
cd "$1"
rooms="plugin_api kernels engine exl2_backend gptq_backend host_stub"
failed=0
files=0

# check <room> <allowed room>...
check() {
    room=$1
    shift
    allowed=" $* "
    for file in $(find "$room" -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) | sort); do
        files=$((files + 1))
        sed -n -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*([<"][^>"]+[>"]).*/\1/p' "$file" > "$work"
        while read -r include; do
            name=${include#?}
            name=${name%?}
            first=${name%%/*}
            case $name in
                *../*) complain "$file" "$include" "goes up by a relative path"; continue ;;
            esac
            if [ "$first" = quantplug ]; then
                first=plugin_api
            elif [ "$first" = "$name" ] || ! echo " $rooms tests " | grep -q " $first "; then
                # Of the standard or of a library, which pointed brackets say.
                case $include in
                    \"*) complain "$file" "$include" "is not written from the root" ;;
                    *) [ "$room" != plugin_api ] || standard "$file" "$name" ;;
                esac
                continue
            fi
            case $allowed in
                *" $first "*) ;;
                *) complain "$file" "$include" "is not for $room, which may include:$allowed" ;;
            esac
        done < "$work"
    done
}
complain() {
    echo "FAILED: $1: #include $2 $3"
    failed=1
}
# plugin_api needs a compiler and nothing else: the standard library, and what tells a process and a register.
standard() {
    case $2 in
        unistd.h | process.h | xmmintrin.h | stddef.h | stdint.h) ;;
        *.* | */*) complain "$1" "<$2>" "is not of the standard library" ;;
    esac
}

work=$(mktemp)
trap 'rm -f "$work"' EXIT
check plugin_api plugin_api
check kernels kernels
check engine engine kernels plugin_api
check exl2_backend exl2_backend engine kernels plugin_api
check gptq_backend gptq_backend engine kernels plugin_api
check host_stub host_stub plugin_api
[ $files -gt 12 ] || { echo "FAILED: only $files files found in $1"; exit 1; }
[ $failed = 0 ] && echo "$files files include only what they may"
exit $failed
