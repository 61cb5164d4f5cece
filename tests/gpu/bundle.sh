#!/bin/sh
# Packs what a machine with a GPU needs to check and time Kiln there, into a folder of less than 64 MiB that needs no compiler,
# no LLVM and no CUDA toolkit: `tests/gpu/bundle.sh [FOLDER]`, by default `.carry/gpu`. There, `FOLDER/run.sh [OUT]` runs it.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$root/.carry/gpu}
target=${CARGO_TARGET_DIR:-$root/target}
cd "$root"
cargo build --locked --release -p kiln-runtime --example gpu_check
cargo build --locked --release -p kiln-tests --example gpu_bundle
rm -rf "$folder"
mkdir -p "$folder"
"$target/release/examples/gpu_bundle" "$folder"
cp "$target/release/examples/gpu_check" tests/gpu/run.sh tests/gpu/torch_peers.py "$folder"
strip "$folder/gpu_check"
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $size MiB"
[ "$size" -lt 64 ]
