#!/bin/bash
# Install Triton for the tests of the GPU kernels: it interprets them and compiles them without a GPU.
# Into a folder beside the packages of `python`, whose torch is that of a CPU and has no Triton
# either. Installs only what is missing.
set -euo pipefail

version=3.7.1 # of torch 2.13.0 for CUDA
folder=$(python -c 'import sys; print(sys.prefix)')/triton-$version
[ ! -e "$folder" ] || exit 0
if [ "$(uname)" != Linux ]; then
    echo "install_triton.sh: Triton is published for Linux alone; the tests of its kernels are skipped" >&2
    exit 0
fi
rm -rf "$folder.part"
python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --target "$folder.part" "triton==$version"
mv "$folder.part" "$folder"
