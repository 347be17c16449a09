#!/usr/bin/env bash
# Installs the Debian packages that quantplug builds with. Arguments: further packages.
set -euo pipefail
packages=(g++ cmake ninja-build ccache pkg-config libboost-dev libboost-filesystem-dev nlohmann-json3-dev libsentencepiece-dev
          doctest-dev libcli11-dev libpcre2-dev libutf8proc-dev libelf-dev "$@")
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing: ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
