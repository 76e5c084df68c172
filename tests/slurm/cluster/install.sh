#!/bin/bash
# Install what the trial cluster and its tests need from Debian's packages: Slurm, its accounting
# daemon, munge, MariaDB, iproute2 and curl. Asks nothing, installs only what is missing, starts no
# daemon. Run as root.
set -euo pipefail

packages=(slurm-wlm slurmdbd munge mariadb-server iproute2 util-linux curl)

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# A package's post-installation script may start its daemon. Debian asks policy-rc.d first, and 101
# means "not now": the cluster brings its own configuration and starts the daemons itself.
forbid_daemon_starts() {
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] && return
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064  # the path is meant to be expanded now
    trap "rm -f $policy" EXIT
}

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "install.sh: everything is installed"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: must run as root to install: ${missing[*]}" >&2
    exit 1
fi
forbid_daemon_starts
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# Recommended packages would triple the download and add nothing that is used here.
apt-get install -y -q --no-install-recommends "${missing[@]}"
