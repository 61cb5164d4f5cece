#!/usr/bin/env python3
"""Time PyTorch on the work of a bundle's benches: torch_peers.py bundle.json peers.json

The times go to peers.json in microseconds by bench, for gpu_check --peers.
"""
import collections
import json
import pathlib
import re
import sys
import time

import numpy as np
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


def encoder(elem, batch, length):
    """The encoder of benches.rs: six layers of MiniLM's shape."""
    names = {"wq": (384, 384), "wk": (384, 384), "wv": (384, 384), "wo": (384, 384), "w1": (384, 1536), "w2": (1536, 384)}
    w = [{name: made(elem, *shape) * 0.05 for name, shape in names.items()} for _ in range(6)]
    b, b1, g = made(elem, 384), made(elem, 1536), made(elem, 384)

    def layer(x, w):
        heads = lambda m: (x @ m + b).view(batch, length, 12, 32).transpose(1, 2)
        a = F.scaled_dot_product_attention(heads(w["wq"]), heads(w["wk"]), heads(w["wv"]))
        a = a.transpose(1, 2).reshape(batch, length, 384)
        n = F.layer_norm(a @ w["wo"] + b + x, (384,), g, b, 1e-12)
        h = F.gelu(n @ w["w1"] + b1)
        return F.layer_norm(h @ w["w2"] + b + n, (384,), g, b, 1e-12)

    def forward(x):
        for weights in w:
            x = layer(x, weights)
        return x

    x = made(elem, batch, length, 384)
    compiled = torch.compile(forward, mode="max-autotune")
    return lambda: compiled(x)


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


def layers(kinds, starts, children, weights):
    """[(kind, nodes, children [n, k], weights)] by depth; the sums of a dense layer share their children, and stand side
    by side. Children that are missing are node N, whose value is minus infinity."""
    depth, groups = [0] * len(kinds), collections.defaultdict(list)
    of = [children[a:b] for a, b in zip(starts, starts[1:])]
    for i, kind in enumerate(kinds):
        if kind < 0:
            depth[i] = 1 + max(depth[c] for c in of[i])
            groups[depth[i], kind, tuple(of[i]) if kind == -2 else i].append(i)
    plan = collections.defaultdict(list)
    for (d, kind, _), members in groups.items():
        fan = len(of[members[0]])
        if kind == -1:
            plan[d, "product", (1, fan)].append(members)
        elif len(members) > 1:
            plan[d, "dense", (len(members), fan)].append(members)
        else:
            plan[d, "sum", (1, 1 << (fan - 1).bit_length())].append(members)
    for (_, kind, (_, fan)), items in sorted(plan.items()):
        heads = [m[0] for m in items]
        index = np.array([of[h] + [len(kinds)] * (fan - len(of[h])) for h in heads])
        w = [[weights[starts[i]:starts[i + 1]] for i in m] for m in items]
        if kind == "sum":
            w = [np.pad(m[0], (0, fan - len(m[0])), constant_values=-np.inf) for m in w]
        yield kind, [i for m in items for i in m], index, np.array(w, np.float32)


def circuit(file, rows):
    """Log-likelihoods of complete rows, layer by layer, as one CUDA graph: gathers and logsumexp, and where sums share
    their children log-einsum-exp."""
    arrays = np.load(file)
    kinds, starts, children = (arrays[name].tolist() for name in ["kinds", "starts", "children"])
    inputs = [i for i, kind in enumerate(kinds) if kind >= 0]
    plan, order = list(layers(kinds, starts, children, arrays["weights"])), inputs
    for _, nodes, _, _ in plan:
        order = order + nodes
    place = np.empty(len(kinds) + 1, np.int64)
    place[order + [len(kinds)]] = np.arange(len(kinds) + 1)
    on = lambda a: torch.from_numpy(np.ascontiguousarray(a)).cuda()
    steps, first = [], len(inputs)
    for kind, nodes, index, w in plan:
        w = on(np.exp(w) if kind == "dense" else w)
        steps.append((first, first + len(nodes), kind, on(place[index]), w))
        first += len(nodes)
    table = on(arrays["tables"])
    flat, base = table.reshape(-1), torch.arange(len(inputs), device="cuda")[:, None] * table.shape[1]
    var, root = on(np.array([kinds[i] for i in inputs])), int(place[len(kinds) - 1])
    x = torch.randint(table.shape[1], (max(kinds) + 1, rows), device="cuda")

    def forward():
        v = torch.full((len(kinds) + 1, rows), -torch.inf, device="cuda")
        v[:len(inputs)] = flat[base + x[var]]
        for a, b, kind, index, w in steps:
            g = v[index]
            if kind == "product":
                v[a:b] = g.sum(1)
            elif kind == "sum":
                v[a:b] = torch.logsumexp(g + w[:, :, None], 1)
            else:
                top = g.amax(1, keepdim=True).clamp_min(-1e30)
                v[a:b] = (torch.log(torch.bmm(w, torch.exp(g - top))) + top).flatten(0, 1)
        return v[root]

    forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


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


# Whole models, by the names of their benches.
MODELS = {
    f"encoder_{elem}_{b}x{s}": lambda elem=elem, b=b, s=s: encoder(elem, b, s)
    for elem in ["f32", "bf16"] for b, s in [(1, 128), (32, 128)]
}


def microseconds(work, whole, runs=20):
    """The best of some runs: by events of the device, or from the call until its work is done."""
    for _ in range(3):
        work()
    best = float("inf")
    for _ in range(runs):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin = time.perf_counter()
        start.record()
        work()
        end.record()
        end.synchronize()
        took = (time.perf_counter() - begin) * 1e6 if whole else start.elapsed_time(end) * 1e3
        best = min(best, took)
    return best


def peer(name, folder):
    """What makes the work of a bench, if it has a peer."""
    if found := re.fullmatch(r"(.*) log_likelihood (\d+) rows", name):
        return lambda: circuit(folder / f"{found[1]}.npz", int(found[2]))
    if name in MODELS:
        return MODELS[name]
    found = re.fullmatch(r"(.*)_(f32|f16|bf16)", name)
    return (lambda: PEERS[found[1]](found[2])) if found and found[1] in PEERS else None


def main(bundle, out):
    # f32 means f32: tf32 only where it is asked for.
    torch.backends.cuda.matmul.allow_tf32 = False
    times = {}
    for bench in json.load(open(bundle))["benches"]:
        name, make = bench["name"], peer(bench["name"], pathlib.Path(bundle).parent)
        if make is None:
            continue
        try:
            with torch.no_grad():
                times[name] = microseconds(make(), bench.get("whole", False))
            print(f"{name:<44} {times[name]:>10.1f} us")
        except Exception as e:  # what one peer lacks is no reason to lose the others
            print(f"{name}: {e}")
        torch.cuda.empty_cache()
        # What there is stays, should the time run out.
        with open(out, "w") as file:
            json.dump(times, file)


main(*sys.argv[1:])
