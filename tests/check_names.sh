#!/bin/sh
# Two classes of one name in one namespace are one to the linker, whatever the compiler says of each file. Looks at every class, struct and enum
# that begins a line outside of anonymous namespaces; the namespaces are those of the closing comments that clang-format writes.
# Usage: check_names.sh <root>
set -eu
cd "$1"
find plugin_api kernels engine exl2_backend gptq_backend host_stub -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' | sort | xargs awk '
    FNR == 1 { depth = 0 }
    /^(inline )?namespace.*\{$/ {
        name = $0; sub(/^inline /, "", name); sub(/^namespace ?/, "", name); sub(/ ?\{$/, "", name)
        space[++depth] = name == "" ? "anonymous" : name
    }
    /^}  \/\/ namespace/ { if (depth > 0) depth-- }
    /^(class|struct|enum class|enum|union) .*\{/ {
        path = ""; hidden = 0
        for (i = 1; i <= depth; i++) { path = path space[i] "::"; if (space[i] == "anonymous") hidden = 1 }
        if (hidden) next
        name = $0; sub(/^(enum class|class|struct|enum|union) /, "", name); sub(/^(QP_KERNELS_API|QUANTPLUG_HIDDEN) /, "", name)
        if (name ~ /^alignas/) sub(/^alignas\([0-9]+\) /, "", name)
        sub(/( final)?( : .*)? ?\{.*/, "", name)
        if (name == "") next
        key = path name
        if (key in seen && seen[key] != FILENAME) { print "error: " key " is defined in " seen[key] " and in " FILENAME ": rename one"; bad = 1 }
        seen[key] = FILENAME
    }
    END { n = 0; for (k in seen) n++; print n " names"; exit bad || n < 100 }'
