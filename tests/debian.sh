#!/bin/bash
# Run a command of this project in another Debian release, with its Python and its Slurm:
#
#     bash tests/debian.sh sid make test-slurm
#
# As root, with debootstrap. The release is installed once, in RELEASES (default /var/tmp/releases);
# the command runs in a fresh clone of the last commit there, on this machine's network and
# devices. Not beside a trial Slurm cluster of this machine: both have the same addresses.
set -euo pipefail

suite=$1
shift
project=$(cd "$(dirname "$0")/.." && pwd)
root=${RELEASES:-/var/tmp/releases}/$suite
packages=ca-certificates,python3-dev,python3-venv,build-essential,git,make,procps,iproute2,curl

if [ ! -e "$root/installed" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root"
    # The lists of sid are valid for a week; a mirror may have older ones.
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/mirror"
    touch "$root/installed"
fi
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || cp --dereference "$file" "$root$file"
done
rm -rf "$root/root/project"
git clone --quiet "$project" "$root/root/project"

# A mere chroot would not do: what enters the mount namespaces of the trial cluster's nodes would see
# the files of this machine. Daemons end with the command, in its process namespace.
exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    root=$1
    shift
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    cd "$root"
    mkdir -p old
    pivot_root . old
    umount --lazy /old
    cd /root/project
    export HOME=/root TMPDIR=/tmp
    "$@"
    exit  # bash stays, to collect the orphans that a first process is given
' bash "$root" "$@"
