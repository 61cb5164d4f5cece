"""Writes the small pointer networks of this folder and what PyTorch computes with them in float64.

    python make_pointer.py

Every row is computed alone, without padding. A seed under which two candidates are nearly equal is not used.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
N, LENGTHS, WIDTH = 7, [7, 4, 1, 6], 3
GAP = 1e-4


def gap_checked(values, kept):
    """The choice of the largest does not hang on rounding."""
    top = torch.sort(values[torch.isfinite(values)], descending=True).values[: kept + 1]
    if len(top) > 1:
        assert (top[:-1] - top[1:]).min() > GAP, "two candidates are nearly equal"


class Recurrent:
    """A pointer network of recurrent cells over one row of points."""

    def __init__(self, config, generator):
        c = self.c = config
        h, kind = c["hidden_size"], c.get("cell", "lstm")
        both = c.get("bidirectional")
        self.e = e = 2 * h if both == "concat" else h
        d, layers = c.get("embedding_size") or c["input_size"], c.get("num_layers", 1)
        cells = {"lstm": (torch.nn.LSTM, torch.nn.LSTMCell), "gru": (torch.nn.GRU, torch.nn.GRUCell)}[kind]
        m = self.m = torch.nn.ModuleDict()
        if c.get("embedding_size"):
            m["embedding"] = torch.nn.Linear(c["input_size"], d)
        m["encoder"] = cells[0](d, h, layers, batch_first=True, bidirectional=bool(both))
        width = {"embedding of the last pick": d, "encoding of the last pick": e}.get(c.get("decoder_input"), c["input_size"])
        m["decoder"] = torch.nn.ModuleList([cells[1](width if k == 0 else e, e) for k in range(layers)])
        a = self.a = c.get("attention_size", e)
        for prefix in ["", "glimpse."][: 1 + (c.get("glimpses", 0) > 0)]:
            m[prefix.replace(".", "_") + "w1"] = torch.nn.Linear(e, a, bias=False)
            m[prefix.replace(".", "_") + "w2"] = torch.nn.Linear(e, a, bias=False)
            if c.get("attention", "additive") == "additive":
                m[prefix.replace(".", "_") + "v"] = torch.nn.Linear(a, 1, bias=False)
        m.double()
        self.go = torch.zeros(width).double()
        for p in m.parameters():
            p.data = (torch.rand(p.shape, generator=generator).double() - 0.5) * 1.6
            p.data = p.data.float().double()
            p.requires_grad_(False)
        random = lambda n: (torch.rand(n, generator=generator) - 0.5).double()
        self.go = random(width) if c.get("first_input", "go") == "go" else self.go
        self.end = random(e)

    def weights(self):
        """As stored: rows of gates in the configured order."""
        c, out = self.c, {}
        kind = "ifgo" if c.get("cell", "lstm") == "lstm" else "rzn"
        order = c.get("gate_order", kind).replace("c", "g")
        for name, p in self.m.named_parameters():
            if "_ih" in name or "_hh" in name:
                parts = dict(zip(kind, p.chunk(len(kind))))
                p = torch.cat([parts[g] for g in order])
            if c.get("num_layers", 1) == 1:
                name = name.replace("decoder.0.", "decoder.")
            out[name.replace("glimpse_", "glimpse.")] = p
        if c.get("first_input", "go") == "go":
            out["go"] = self.go
        if c.get("end_symbol"):
            out["end"] = self.end
        return out

    def attend(self, prefix, refs, query):
        k, q = self.m[prefix + "w1"](refs), self.m[prefix + "w2"](query)
        if self.c.get("attention", "additive") == "additive":
            return self.m[prefix + "v"](torch.tanh(k + q))[:, 0]
        return k @ q / (math.sqrt(self.a) if self.c["attention"] == "scaled_dot" else 1)

    def begin(self, points):
        c, layers = self.c, self.c.get("num_layers", 1)
        x = self.m["embedding"](points) if "embedding" in self.m else points
        y, last = self.m["encoder"](x[None])
        y = y[0]
        last = [s[:, 0] for s in (last if isinstance(last, tuple) else (last,))]
        h = c["hidden_size"]
        if c.get("bidirectional") == "sum":
            y = y[:, :h] + y[:, h:]
            last = [s.view(layers, 2, h).sum(1) for s in last]
        elif c.get("bidirectional") == "concat":
            last = [s.view(layers, 2 * h) for s in last]
        self.inputs = {"embedding of the last pick": x, "encoding of the last pick": y}.get(c.get("decoder_input"), points)
        self.refs = torch.cat([y, self.end[None]]) if c.get("end_symbol") else y
        if c.get("initial_decoder_state") == "zeros":
            last = [torch.zeros_like(s) for s in last]
        return self.go, [tuple(s[k] for s in last) for k in range(layers)]

    def step(self, state, mask):
        x, layers = state
        new = []
        for cell, s in zip(self.m["decoder"], layers):
            s = cell(x[None], tuple(v[None] for v in s) if len(s) > 1 else s[0][None])
            new.append(tuple(v[0] for v in s) if isinstance(s, tuple) else (s[0],))
            x = new[-1][0]
        q = x
        for _ in range(self.c.get("glimpses", 0)):
            p = self.attend("glimpse_", self.refs, q).masked_fill(mask, -math.inf).softmax(0)
            q = p @ self.refs
        u = self.attend("", self.refs, q)
        if self.c.get("tanh_clipping"):
            u = self.c["tanh_clipping"] * torch.tanh(u)
        return u, (state[0], new)

    def feed(self, state, pick):
        return self.inputs[min(pick, len(self.inputs) - 1)], state[1]


class AttentionModel:
    """Kool et al. (2019), after the authors' code, over one row of points."""

    def __init__(self, config, generator):
        c = self.c = config
        e, f, heads = c["embedding_dim"], c["feed_forward_hidden"], c["n_heads"]
        shapes = {"init_embed.weight": (e, c["input_size"]), "init_embed.bias": (e,),
                  "project_node_embeddings.weight": (3 * e, e), "project_fixed_context.weight": (e, e),
                  "project_step_context.weight": (e, 2 * e), "project_out.weight": (e, e), "W_placeholder": (2 * e,)}
        for k in range(c["n_encode_layers"]):
            at = f"embedder.layers.{k}."
            for name in ("W_query", "W_key", "W_val"):
                shapes[at + "0.module." + name] = (heads, e, e // heads)
            shapes[at + "0.module.W_out"] = (heads, e // heads, e)
            shapes |= {at + "2.module.0.weight": (f, e), at + "2.module.0.bias": (f,),
                       at + "2.module.2.weight": (e, f), at + "2.module.2.bias": (e,)}
            if c["normalization"] != "none":
                names = ("weight", "bias") + (("running_mean", "running_var") if c["normalization"] == "batch" else ())
                shapes |= {f"{at}{n}.normalizer.{name}": (e,) for n in (1, 3) for name in names}
        self.w = {}
        for name, shape in shapes.items():
            v = (torch.rand(shape, generator=generator) - 0.5) * 1.2
            self.w[name] = (v.abs() + 0.5 if name.endswith("running_var") else v).double()

    def weights(self):
        extra = {k.replace("running_var", "num_batches_tracked"): torch.tensor(5) for k in self.w if k.endswith("running_var")}
        return self.w | extra

    def heads(self, q, k, v, mask=None):
        scores = torch.einsum("hqd,hkd->hqk", q, k) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask, -math.inf)
        return scores.softmax(-1) @ v

    def normalize(self, x, at):
        kind, w = self.c["normalization"], self.w
        if kind == "none":
            return x
        eps = self.c.get("normalization_eps", 1e-5)
        if kind == "batch":
            y = (x - w[at + "running_mean"]) / torch.sqrt(w[at + "running_var"] + eps)
        else:
            y = (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + eps)
        return y * w[at + "weight"] + w[at + "bias"]

    def split(self, x):
        heads = self.c["n_heads"]
        return x.view(x.shape[0], heads, -1).permute(1, 0, 2)

    def begin(self, points):
        w, e = self.w, self.c["embedding_dim"]
        x = points @ w["init_embed.weight"].T + w["init_embed.bias"]
        for k in range(self.c["n_encode_layers"]):
            at = f"embedder.layers.{k}."
            q, key, v = (torch.einsum("ne,hed->hnd", x, w[at + "0.module." + n]) for n in ("W_query", "W_key", "W_val"))
            y = torch.einsum("hnd,hde->ne", self.heads(q, key, v), w[at + "0.module.W_out"])
            x = self.normalize(x + y, at + "1.normalizer.")
            y = torch.relu(x @ w[at + "2.module.0.weight"].T + w[at + "2.module.0.bias"])
            x = self.normalize(x + y @ w[at + "2.module.2.weight"].T + w[at + "2.module.2.bias"], at + "3.normalizer.")
        self.x = x
        self.fixed = x.mean(0) @ w["project_fixed_context.weight"].T
        k, v, self.logit = (x @ w["project_node_embeddings.weight"].T).split(e, 1)
        self.k, self.v = self.split(k), self.split(v)
        return w["W_placeholder"], None

    def step(self, state, mask):
        w = self.w
        q = self.fixed + state[0] @ w["project_step_context.weight"].T
        glimpse = self.heads(self.split(q[None]), self.k, self.v, mask).permute(1, 0, 2).reshape(-1)
        glimpse = glimpse @ w["project_out.weight"].T
        u = self.logit @ glimpse / math.sqrt(len(glimpse))
        if self.c.get("tanh_clipping", 10.0):
            u = self.c.get("tanh_clipping", 10.0) * torch.tanh(u)
        return u, state

    def feed(self, state, pick):
        first = self.x[pick] if state[1] is None else state[1]
        return torch.cat([first, self.x[pick]]), first


def log_probabilities(model, state, seen, once):
    mask = torch.tensor(seen) if once else torch.zeros(len(seen), dtype=torch.bool)
    u, state = model.step(state, mask)
    return torch.log_softmax(u.masked_fill(mask, -math.inf), 0), state


def beams(model, points, width):
    """Beam search; with width 1 it is greedy. Sequences with their log-probabilities, the likeliest first."""
    c, n = model.c, len(points)
    end, once = bool(c.get("end_symbol")), c["mask_visited"]
    live = [([], 0.0, model.begin(points), [False] * (n + end), False)]
    for _ in range(n + end):
        new = []
        for picks, score, state, seen, done in live:
            if done:
                new.append((picks, score, state, seen, done))
                continue
            lp, after = log_probabilities(model, state, seen, once)
            for pick in range(n + end):
                if not (once and seen[pick]):
                    marked = [s or i == pick for i, s in enumerate(seen)]
                    new.append((picks + [pick], score + lp[pick].item(), model.feed(after, min(pick, n - 1)), marked,
                                end and pick == n))
        gap_checked(torch.tensor([b[1] for b in new]), width)
        live = sorted(new, key=lambda b: -b[1])[:width]
    return [(picks, score) for picks, score, *_ in live]


def score(model, points, picks):
    n, total = len(points), 0.0
    end, once = bool(model.c.get("end_symbol")), model.c["mask_visited"]
    state, seen = model.begin(points), [False] * (n + end)
    for pick in picks:
        if once and seen[pick]:
            return -math.inf
        lp, state = log_probabilities(model, state, seen, once)
        total, seen[pick] = total + lp[pick].item(), True
        state = model.feed(state, min(pick, n - 1))
    return total


def padded(lists, width):
    return torch.tensor([list(picks) + [-1] * (width - len(picks)) for picks in lists])


def write(name, kind, config, seed):
    while True:
        try:
            return write_with(name, kind, config, seed)
        except AssertionError:
            seed += 100


def write_with(name, kind, config, seed):
    config = {"model_type": "pointer_network", "input_size": 2} | config
    g = torch.Generator().manual_seed(seed)
    model = kind(config, g)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stored = {k: (v if v.dtype == torch.int64 else v.float()).contiguous() for k, v in model.weights().items()}
    save_file(stored, folder / "model.safetensors")
    points = torch.rand(len(LENGTHS), N, 2, generator=g)
    steps = N + bool(config.get("end_symbol"))
    rows = [points[b, :n].double() for b, n in enumerate(LENGTHS)]
    out = {"points": points, "lengths": torch.tensor(LENGTHS)}

    def put(prefix, found, shape):
        out[prefix + "indices"] = padded([p for p, _ in found], steps).view(*shape, steps)
        out[prefix + "length"] = torch.tensor([len(p) for p, _ in found]).view(*shape)
        out[prefix + "log_probability"] = torch.tensor([s for _, s in found]).view(*shape)

    put("forward.", [beams(model, p.double(), 1)[0] for p in points], (len(LENGTHS),))
    put("forward_padded.", [beams(model, p, 1)[0] for p in rows], (len(LENGTHS),))
    found = [beams(model, p, WIDTH) for p in rows]
    found = [row + [([], -math.inf)] * (WIDTH - len(row)) for row in found]
    put("beam.", [b for row in found for b in row], (len(LENGTHS), WIDTH))
    # Random sequences; the last one names a point twice.
    r = np.random.default_rng(seed)
    given = [list(r.permutation(n)[: max(1, n - 1)]) for n in LENGTHS]
    given[-1][1] = given[-1][0]
    if config.get("end_symbol"):
        given = [picks + [n] for picks, n in zip(given, LENGTHS)]
    out["score.indices"] = padded(given, steps)
    out["score.log_probability"] = torch.tensor([score(model, p, q) for p, q in zip(rows, given)])
    out = {k: v.to(torch.float64) if v.is_floating_point() and k != "points" else v for k, v in out.items()}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "reference.safetensors")
    print(name, sum(v.numel() for v in stored.values()), "weights")


def main():
    end = "index n, key from the 'end' vector"
    write("pointer-gru", Recurrent, {"hidden_size": 5, "cell": "gru", "gate_order": "zrn", "num_layers": 2,
          "bidirectional": "sum", "attention": "dot", "end_symbol": end, "mask_visited": False,
          "first_input": "zeros", "decoder_input": "encoding of the last pick"}, 1)
    write("pointer-glimpse", Recurrent, {"hidden_size": 4, "gate_order": "iofc", "bidirectional": "concat",
          "embedding_size": 3, "attention": "additive", "attention_size": 6, "glimpses": 2, "tanh_clipping": 10,
          "mask_visited": True, "decoder_input": "embedding of the last pick"}, 2)
    write("pointer-lstm-layers", Recurrent, {"hidden_size": 4, "num_layers": 2, "attention": "scaled_dot",
          "mask_visited": True, "end_symbol": end, "initial_decoder_state": "zeros"}, 3)
    kool = {"architecture": "attention_model", "task": "tsp", "embedding_dim": 8, "n_heads": 2, "n_encode_layers": 2,
            "feed_forward_hidden": 12, "mask_visited": True}
    write("pointer-attention-batch", AttentionModel, kool | {"normalization": "batch"}, 4)
    write("pointer-attention-instance", AttentionModel, kool | {"normalization": "instance", "tanh_clipping": None}, 5)


if __name__ == "__main__":
    main()
