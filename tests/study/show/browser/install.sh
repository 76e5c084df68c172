#!/bin/bash
# Install what the tests of the report in a browser need: Chromium and pdftotext from Debian's
# packages, as root, and axe-core from the npm registry into this folder. Installs only what is
# missing.
set -euo pipefail
cd "$(dirname "$0")"

version=4.14.1
sha256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
url=https://registry.npmjs.org/axe-core/-/axe-core-$version.tgz

packages=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || packages+=(chromium)
command -v pdftotext >/dev/null || packages+=(poppler-utils)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "install.sh: the tests of the report in a browser are skipped without ${packages[*]};" \
            "install them, or run this as root on Debian or Ubuntu" >&2
        exit 0
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

if [ ! -e "axe-core-$version/axe.min.js" ]; then
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' "$url" "$archive"
    echo "$sha256  $archive" | sha256sum --check --quiet
    mkdir -p "axe-core-$version"
    tar --extract --gzip --file "$archive" --directory "axe-core-$version" --strip-components 1 package/axe.min.js package/LICENSE
fi
