#!/bin/sh
# compile_headers.sh <include folder>: every C header alone and all together, in every standard, and the C++ sides, without a warning.
set -eu
include=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
warnings="-Wall -Wextra -Wpedantic -Werror -I$include -fsyntax-only"
headers=$(cd "$include" && find quantplug -name '*.h' | sort)
[ "$(echo "$headers" | wc -l)" -ge 14 ] || { echo "only these headers under $include: $headers"; exit 1; }
count=0
compile() {   # compile <compiler> <std> <language> <more flags> <file>
    # shellcheck disable=SC2086
    "$1" -std="$2" -x "$3" $warnings $4 "$5" || { echo "FAILED: $1 -std=$2: $(cat "$5")"; exit 1; }
    count=$((count + 1))
}

for header in $headers; do
    name=$(echo "$header" | tr '/.' '__')
    # Twice: the guard holds. A use, so that the unit is not empty.
    printf '#include <%s>\n#include <%s>\nint qp_unit(void);\n' "$header" "$header" > "$work/$name.c"
    echo "#include <$header>"
done > "$work/all.c"
printf '#define QP_BUILDING_PLUGIN\n#include <quantplug/plugin.h>\nint qp_unit(void);\n' > "$work/building.c"
echo 'int qp_unit(void);' >> "$work/all.c"

for side in host common backend; do
    printf '#include <quantplug/%s.hpp>\n#include <quantplug/%s.hpp>\n' "$side" "$side" > "$work/$side.cpp"
done
printf '#include <quantplug/backend.hpp>\n#include <quantplug/host.hpp>\n' > "$work/both.cpp"

compilers=0
for pair in "gcc g++" "clang clang++"; do
    c=${pair% *} cxx=${pair#* }
    if command -v "$c" > /dev/null; then
        compilers=$((compilers + 1))
        for std in c11 c17; do for file in "$work"/*.c; do compile "$c" $std c -Wpadded "$file"; done; done
    else
        echo "skipped: no $c on this machine"
    fi
    if command -v "$cxx" > /dev/null; then
        compilers=$((compilers + 1))
        for std in c++11 c++14 c++17 c++20; do
            for file in "$work"/*.c; do compile "$cxx" $std c++ -Wpadded "$file"; done
            for side in host common; do compile "$cxx" $std c++ -Wshadow "$work/$side.cpp"; done
        done
        for std in c++17 c++20; do
            for side in backend both; do compile "$cxx" $std c++ -Wshadow "$work/$side.cpp"; done
        done
    else
        echo "skipped: no $cxx on this machine"
    fi
done
[ $compilers -gt 0 ] || { echo "no compiler found"; exit 1; }
echo "$count compilations, $(echo "$headers" | wc -l) C headers"
