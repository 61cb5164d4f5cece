#!/bin/sh
# Runs a bundle on this machine's GPU: the cases, the benches, and before them the same work by PyTorch where it is installed.
# Tables go to the terminal, what was found to `cases.json` and `gpu.json` in OUT: `run.sh [OUT]`, by default `gpu-results`. A
# bench has its limit beside it, PyTorch's time in `peer_us`, and for each of its `figures` what was found and whether it is
# met. Row by row it is in `cases.jsonl` and `gpu.jsonl`, which hold what an interrupted run found. 0 if all cases are right, 1
# if one is not, 2 if nothing could run, and then `cases.json` says why.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-results}
mkdir -p "$out" || exit 2
rm -f "$out/cases.json" "$out/cases.jsonl" "$out/gpu.json" "$out/gpu.jsonl" "$out/peers.json"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv 2>/dev/null
# First what is right, then what is fast: a kernel that does not end takes the times of others with it.
timeout 200 "$here/gpu_check" "$here" --out "$out" --no-benches
right=$?
mv "$out/gpu.json" "$out/cases.json" 2>/dev/null
mv "$out/gpu.jsonl" "$out/cases.jsonl" 2>/dev/null
[ $right -ne 2 ] || exit 2
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  timeout 220 python3 "$here/torch_peers.py" "$here/bundle.json" "$out/peers.json"
else
  echo "no PyTorch with CUDA here: no peers"
fi
timeout 170 "$here/gpu_check" "$here" --out "$out" --no-cases --peers "$out/peers.json"
exit $right
