#!/usr/bin/env python3
"""Time PyTorch on the work of the benches and print it beside what gpu_check measured: torch_peers.py gpu.jsonl"""
import json
import re
import sys

import torch
import torch.nn.functional as F

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def made(elem, *shape):
    return torch.rand(shape, device="cuda").mul_(2).sub_(1).to(TYPES[elem])


def attention(elem, b, h, s, d, causal=False):
    q, k, v = (made(elem, b, h, s, d) for _ in range(3))
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def decode(b, h, g, s, ragged=False):
    def make(elem):
        q, k, v = made(elem, b, h, 1, 128), made(elem, b, g, s, 128), made(elem, b, g, s, 128)
        lengths = (torch.arange(b, device="cuda") + 1) * (s // b)
        mask = (torch.arange(s, device="cuda") < lengths[:, None])[:, None, None] if ragged else None
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return make


def matmul(elem, m, k, n, turned=False):
    x, y = made(elem, m, k), made(elem, n, k).t() if turned else made(elem, k, n)
    return lambda: x @ y


def linear(elem):
    x, y, b = made(elem, 4096, 384), made(elem, 384, 1536), made(elem, 1536)
    return torch.compile(lambda: F.gelu(torch.addmm(b, x, y)), mode="max-autotune-no-cudagraphs")


def over(elem, shape, function):
    x = made(elem, *shape)
    return lambda: function(x)


def tours(rows, n=10, hidden=128):
    """The pointer network of the examples: an LSTM reads the points, another one points at the next of a tour."""
    encoder = torch.nn.LSTM(2, hidden, batch_first=True).cuda()
    decoder = torch.nn.LSTMCell(2, hidden).cuda()
    w1, w2, v = (torch.nn.Linear(hidden, m, bias=False).cuda() for m in (hidden, hidden, 1))
    points, go = torch.rand(rows, n, 2, device="cuda"), torch.zeros(2, device="cuda")

    @torch.no_grad()
    def forward():
        encoded, (h, c) = encoder(points)
        keys, h, c, x = w1(encoded), h[0], c[0], go.expand(rows, 2)
        seen = torch.zeros(rows, n, dtype=torch.bool, device="cuda")
        log_probability, picks = torch.zeros(rows, device="cuda"), []
        for _ in range(n):
            h, c = decoder(x, (h, c))
            scores = v(torch.tanh(keys + w2(h)[:, None])).squeeze(-1).masked_fill(seen, float("-inf"))
            pick = scores.argmax(1, keepdim=True)
            log_probability = log_probability + scores.log_softmax(1).amax(1)
            seen = seen.scatter(1, pick, True)
            x = points.gather(1, pick[..., None].expand(rows, 1, 2))[:, 0]
            picks.append(pick)
        return torch.cat(picks, 1), log_probability

    return torch.compile(forward, mode="max-autotune")


PEERS = {
    "copy": lambda e: over(e, (1 << 26,), torch.neg),
    "gelu": lambda e: over(e, (1 << 26,), F.gelu),
    "matmul_4096": lambda e: matmul(e, 4096, 4096, 4096),
    "matmul_8192": lambda e: matmul(e, 8192, 8192, 8192),
    "matmul_nt_4096": lambda e: matmul(e, 4096, 4096, 4096, True),
    "matmul_rows_4096x384x1536": linear,
    "matmul_128x384x384": lambda e: matmul(e, 128, 384, 384),
    "softmax_8192x4096": lambda e: over(e, (8192, 4096), lambda x: F.softmax(x, -1)),
    "layer_norm_65536x384": lambda e: over(e, (65536, 384), lambda x: F.layer_norm(x, (384,))),
    "sum_of_rows_8192x8192": lambda e: over(e, (8192, 8192), lambda x: x.sum(1)),
    "sum_of_columns_8192x8192": lambda e: over(e, (8192, 8192), lambda x: x.sum(0)),
    "argmax_4096x32000": lambda e: over(e, (4096, 32000), lambda x: x.argmax(1)),
    "gather_16384_of_32000x1024": lambda e: (
        lambda x, i: lambda: x[i])(made(e, 32000, 1024), torch.randint(32000, (16384,), device="cuda")),
    "attention_32x12x128x32": lambda e: attention(e, 32, 12, 128, 32),
    "attention_1x16x2048x128_causal": lambda e: attention(e, 1, 16, 2048, 128, True),
    "ptrnet_tsp_1x10": lambda e: tours(1),
    "ptrnet_tsp_128x10": lambda e: tours(128),
    "attention_1x16x8192x128_causal": lambda e: attention(e, 1, 16, 8192, 128, True),
    "decode_1x32x8x65536": decode(1, 32, 8, 65536),
    "decode_1x16x2x524288": decode(1, 16, 2, 524288),
    "decode_8x16x2x65536": decode(8, 16, 2, 65536),
    "decode_8x32x8x65536": decode(8, 32, 8, 65536),
    "decode_8x16x2x65536_ragged": decode(8, 16, 2, 65536, True),
}


def microseconds(work, runs=20):
    for _ in range(3):
        work()
    best = float("inf")
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) * 1e3)
    return best


def main(path):
    # f32 means f32: tf32 only where it is asked for.
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = [json.loads(line) for line in open(path)]
    print(f"{'target':<14} {'bench':<40} {'kiln us':>10} {'torch us':>10} {'torch/kiln':>10}")
    times = {}
    for row in rows:
        found = re.fullmatch(r"(.*)_(f32|f16|bf16)", row["name"])
        if row["kind"] != "bench" or "device_us" not in row or not found or found[1] not in PEERS:
            continue
        if row["name"] not in times:
            try:
                times[row["name"]] = microseconds(PEERS[found[1]](found[2]))
            except Exception as e:  # what one peer lacks is no reason to lose the others
                print(f"{row['name']}: {e}")
                times[row["name"]] = None
        peer = times[row["name"]]
        if peer:
            mine = row["device_us"]
            print(f"{row['target']:<14} {row['name']:<40} {mine:>10.1f} {peer:>10.1f} {peer / mine:>10.2f}")


main(sys.argv[1])
