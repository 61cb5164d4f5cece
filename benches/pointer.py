#!/usr/bin/env python3
"""Time the pointer network for tours against its peers, one thread, and print Markdown tables.

    python benches/pointer.py [--bin target/release] [--zoo ../shared/zoo] [--rounds 9] [--peak GFLOPS] [--no-compile]
                              [--unroll 10] [SECTION ...]

Sections: tours (batches of 1 and of 128, 10 cities), lengths (3 to 200 cities), overhead; all by default. The model is
ZOO/models/ptrnet-tsp. Peers: ONNX Runtime on decode_loop.onnx (any n) and on decode_n10.onnx (unrolled), and the PyTorch
reference of ZOO/make/ptrnet.py, eager and by torch.compile. Peers that take rows of one length only are given a batch of
mixed lengths as one call a length, and their times are added. Everything is timed in turn, round by round; times are
medians of calls, and ratios medians over rounds. The limits are the time in which one core does the arithmetic at its FMA
peak (--peak, or measured with a matrix product) and in which it reads the weights once a step from L2 (measured with a
dot product of operands of that size); the first step of the encoder, whose state is zero, needs no product.

torch.compile unrolls the loop over the cities and is run up to --unroll of them. The overhead of a step is the time that a
network of 4 hidden units takes for each step, whose arithmetic is a thousandth of the other's: loops, calls, addresses,
and the fixed cost of its kernels.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from figures import last_json, run, table

H, STEPS = 128, 10


def best_of(call, repeats=5):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def timer(call, seconds):
    """A function that gives the median time of a call over about so many seconds."""
    call()
    count = max(1, int(seconds / max(best_of(call, 3), 1e-7)))

    def measure():
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    return measure


def peers(a, groups):
    """Calls that decode every group of points of one length."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder = a.zoo / "models/ptrnet-tsp"
    found, picks = {}, {}

    def onnx(name):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda p: session.run(["pointers"], {name: p})[0]

    loop = onnx("decode_loop")
    found["ONNX Runtime, loop"] = lambda: [loop(p) for p in groups]
    picks["ONNX Runtime, loop"] = [loop(p) for p in groups]
    if all(p.shape[1] == 10 for p in groups):
        unrolled = onnx("decode_n10")
        found["ONNX Runtime, unrolled"] = lambda: [unrolled(p) for p in groups]
        picks["ONNX Runtime, unrolled"] = [unrolled(p) for p in groups]
    sys.path.insert(0, str(a.zoo / "make"))
    from ptrnet import PointerNet

    torch.set_num_threads(1)
    model = PointerNet.load(folder).requires_grad_(False)
    tensors = [torch.from_numpy(p) for p in groups]
    found["PyTorch"] = lambda: [model.greedy(p) for p in tensors]
    picks["PyTorch"] = [model.greedy(p).numpy() for p in tensors]
    if a.compile and max(p.shape[1] for p in groups) <= a.unroll:
        try:
            compiled = torch.compile(model.greedy, dynamic=False)
            picks["torch.compile"] = [compiled(p).numpy() for p in tensors]
            found["torch.compile"] = lambda: [compiled(p) for p in tensors]
        except Exception as e:  # Whatever its back end lacks on this machine.
            print(f"torch.compile: not run: {type(e).__name__}", file=sys.stderr)
    return found, picks


class Kiln:
    """The compiled artifact by `kiln-run bench`, a process a round."""

    def __init__(self, a, artifact, entry, inputs, expected):
        self.command = [a.bin / "kiln-run", "bench", artifact, "--entry", entry, "--inputs", inputs, "--threads", 1, "--json"]
        facts = self.bench(200)
        found = np.load(facts["outputs"])["indices"]
        self.same = (found == expected).mean()
        self.count = max(5, int(a.seconds / statistics.median(facts["latencies_s"])))

    def bench(self, count):
        return last_json(run(*self.command, "--iterations", count, "--warmup", max(2, count // 10)))

    def __call__(self):
        return statistics.median(self.bench(self.count)["latencies_s"])


def limits(a, lengths):
    """Seconds for the arithmetic at the FMA peak, and for the recurrent weights once a step from L2, of one batch."""
    cell, narrow = 2 * H * 4 * H, 2 * 2 * 4 * H
    flops = sum((2 * n - 1) * cell + n * (2 * narrow + 2 * H * H * 2 + n * 3 * H) for n in lengths)
    if a.peak:
        peak = a.peak * 1e9
    else:
        x = np.ones((768, 768), np.float32)
        peak = 2 * 768**3 / best_of(lambda: x @ x, 20)
    # Encoder and decoder read a weight of their own, the decoder also that of its query, and the keys are made once.
    n = max(lengths)
    bytes_read = 4 * ((2 * n - 1) * 4 * H * H + n * H * H + H * H)
    x, y = (np.ones(2 * H * H, np.float32) for _ in range(2))
    empty = np.ones(1, np.float32)
    dot = lambda x, y: min(timer(lambda: np.dot(x, y), 0.01)() for _ in range(9))
    bandwidth = 2 * x.nbytes / (dot(x, y) - dot(empty, empty))
    return flops / peak, bytes_read / bandwidth, peak, bandwidth


def case(a, artifact, name, lengths):
    generator = np.random.default_rng(7)
    n, batch = max(lengths), len(lengths)
    points = np.zeros((batch, n, 2), np.float32)
    for row, length in enumerate(lengths):
        points[row, :length] = generator.random((length, 2), np.float32)
    sizes = np.array(lengths)
    groups = [np.ascontiguousarray(points[sizes == k, :k]) for k in sorted(set(lengths))]
    found, picks = peers(a, groups)
    reference = np.full((batch, n), -1, np.int64)
    for k, p in zip(sorted(set(lengths)), picks["PyTorch"]):
        reference[sizes == k, :k] = p
    with tempfile.TemporaryDirectory() as folder:
        inputs = pathlib.Path(folder) / "in.npz"
        mixed = len(groups) > 1
        arrays = {"points": points} | ({"lengths": sizes.astype(np.int64)} if mixed else {})
        np.savez(inputs, **arrays)
        ours = Kiln(a, artifact, "forward_padded" if mixed else "forward", inputs, reference)
        timers = {peer: timer(call, a.seconds) for peer, call in found.items()}
        rounds = {peer: [] for peer in ["kiln", *timers]}
        for _ in range(a.rounds):
            rounds["kiln"].append(ours())
            for peer, measure in timers.items():
                rounds[peer].append(measure())
    arithmetic, weights, _, _ = limits(a, lengths)
    median = {peer: statistics.median(times) for peer, times in rounds.items()}
    best = min(timers, key=median.get)
    ratio = statistics.median(p / o for p, o in zip(rounds[best], rounds["kiln"]))
    shown = lambda peer: f"{median[peer] * 1e3:.3f}" if peer in median else "not run"
    names = ["ONNX Runtime, loop", "ONNX Runtime, unrolled", "PyTorch", "torch.compile"]
    return [name, shown("kiln"), *map(shown, names), best, f"**{ratio:.2f}**",
            f"{arithmetic * 1e3:.3f}", f"{weights * 1e3:.3f}", f"{100 * ours.same:.1f} %"]


def overhead(a):
    """Nanoseconds of a step of a network whose arithmetic is next to nothing, by batch and cities."""
    from safetensors.numpy import save_file

    hidden, generator = 4, np.random.default_rng(7)
    shapes = {"w1.weight": (hidden, hidden), "w2.weight": (hidden, hidden), "v.weight": (1, hidden), "go": (2,)}
    for part, layer in [("encoder", "_l0"), ("decoder", "")]:
        for kind, inner in [("ih", 2), ("hh", hidden)]:
            shapes[f"{part}.weight_{kind}{layer}"] = (4 * hidden, inner)
            shapes[f"{part}.bias_{kind}{layer}"] = (4 * hidden,)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = json.loads((a.zoo / "models/ptrnet-tsp/config.json").read_text()) | {"hidden_size": hidden}
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(tensors, folder / "model.safetensors")
        run(a.bin / "kiln", "compile", folder, "--target", "cpu:native", "-o", folder / "small.kiln")
        for n in [10, 50]:
            np.savez(folder / "in.npz", points=generator.random((1, n, 2), np.float32))
            bench = last_json(run(a.bin / "kiln-run", "bench", folder / "small.kiln", "--inputs", folder / "in.npz",
                                  "--threads", 1, "--json", "--iterations", 20000, "--warmup", 2000))
            time_of_run = statistics.median(bench["latencies_s"])
            rows.append([n, 2 * n, f"{time_of_run * 1e6:.2f}", f"{time_of_run / (2 * n) * 1e9:.0f}"])
    print("### Overhead of a step: 4 hidden units, 1 row, 1 thread\n")
    table(["cities", "steps of both loops", "a run, us", "a step, ns"], rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    ap.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("../shared/zoo"))
    ap.add_argument("--rounds", type=int, default=9)
    ap.add_argument("--seconds", type=float, default=0.3, help="of each peer in each round")
    ap.add_argument("--peak", type=float, help="FMA peak of one core in GFLOP/s")
    ap.add_argument("--unroll", type=int, default=10, help="the most cities that torch.compile is run with")
    ap.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    ap.add_argument("section", nargs="*", help="tours, lengths, overhead; all by default")
    a = ap.parse_args()
    known = ["tours", "lengths", "overhead"]
    a.section = a.section or known
    if unknown := set(a.section) - set(known):
        ap.error(f"no section {', '.join(sorted(unknown))}, expected {', '.join(known)}")
    a.zoo = a.zoo.resolve()
    if "overhead" in a.section:
        overhead(a)
    cases = []
    if "tours" in a.section:
        mixed = [5 + row % 6 for row in range(128)]
        cases += [("1 row, n = 10", [10]), ("128 rows, n = 10", [10] * 128), ("128 rows, n = 5 to 10", mixed)]
    if "lengths" in a.section:
        cases += [(f"1 row, n = {n}", [n]) for n in [3, 20, 50, 100, 200]] + [("16 rows, n = 50", [50] * 16)]
    if not cases:
        return
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(folder) / "tsp.kiln"
        run(a.bin / "kiln", "compile", a.zoo / "models/ptrnet-tsp", "--target", "cpu:native", "-o", artifact)
        rows = [case(a, artifact, name, lengths) for name, lengths in cases]
    print("### Tours by a pointer network, 1 thread, ms\n")
    table(["batch", "kiln", "ONNX Runtime, loop", "ONNX Runtime, unrolled", "PyTorch", "torch.compile", "fastest peer",
           "its time / ours", "limit: FMA peak", "limit: weights from L2", "picks as PyTorch's"], rows)


if __name__ == "__main__":
    main()
