#!/bin/bash
# The first process of a node, run inside the node's own network, process, host name, mount and IPC
# namespaces (see nodes.py). It makes the node look like a machine of its own and keeps slurmd.
#
# Signals: USR1 starts slurmd again, USR2 kills slurmd but not its jobs.
set -eu

name=$1    # of the node
config=$2  # folder with slurm.conf and the hosts file of the nodes
shift 2
cgroups=("$@")    # the node's own part of each cgroup hierarchy, or none

hostname "$name"
mount --bind "$config/hosts" /etc/hosts
# Slurm's default place, because Snakemake's jobs lose the variable SLURM_CONF.
mount --bind "$config" /etc/slurm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
for cgroup in "${cgroups[@]}"; do
    mount --bind "$cgroup" "$(dirname "$cgroup")"
done
unset SLURM_CONF

start_slurmd() {
    slurmd -D -N "$name" &
    slurmd=$!
}
trap start_slurmd USR1
trap 'kill -KILL "$slurmd"' USR2
start_slurmd

# A signal ends `wait`, and only then does bash run its trap. Waiting also collects the orphans that a
# first process is given.
while true; do
    sleep infinity &
    idle=$!
    wait "$idle" || true
    kill "$idle" 2>/dev/null || true
done
