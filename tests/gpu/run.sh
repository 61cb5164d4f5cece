#!/bin/sh
# Runs a bundle on this machine's GPU: the cases, the benches, and the same work by PyTorch where it is installed. Tables
# go to the terminal, `gpu.json` and `gpu.jsonl` to OUT: `run.sh [OUT]`, by default `gpu-results`. 0 if all cases are right.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-results}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv 2>/dev/null
# First what is right, then what is fast: a kernel that does not end takes the times of others with it.
timeout 240 "$here/gpu_check" "$here" --out "$out" --no-benches
right=$?
mv "$out/gpu.json" "$out/cases.json" 2>/dev/null
mv "$out/gpu.jsonl" "$out/cases.jsonl" 2>/dev/null
timeout 240 "$here/gpu_check" "$here" --out "$out" --no-cases
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  timeout 100 python3 "$here/torch_peers.py" "$out/gpu.jsonl"
else
  echo "no PyTorch with CUDA here: no peers"
fi
exit $right
