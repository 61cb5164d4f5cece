#!/usr/bin/env python3
"""Time log-likelihoods of probabilistic circuits against their peers, and print Markdown tables.

    python benches/circuits.py [--bin target/release] [--zoo ../shared/zoo] [--models NAME ...] [--peers NAME ...]
                               [--batches N ...] [--threads N ...] [--rounds 5] [--seconds 0.3] [--wait]

Peers are the evaluators of ZOO/bench/bench_pc.py: numpy (node by node, f64), torch (layers of gathers, logsumexp and
log-einsum-exp, f32), compile (the same by torch.compile) and spflow (1.1.0, f32), those that are installed. Histograms over
whole numbers are tables of categories to them. Every engine stays alive, and all are timed in turn, round by round; kiln is
timed by `kiln-run bench`, a process a round, in f64 and in f32. Ratios are medians over rounds. A peer whose call takes over
--slow seconds is timed once, on 256 rows at most, and its time scaled: such figures have a ~.

Limits are of one core, measured in the same run: the arithmetic of the sums at the FMA peak of a matrix product, or the
tables read once a block of rows from L2 with a dot product of operands of that size, whichever takes longer. With
--wait, a line on standard input starts the timing, after everything has been built.
"""
import argparse
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
import types

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import numpy as np

from figures import last_json, run, table
from pointer import best_of, timer

PEERS = ["numpy", "torch", "compile", "spflow"]
SLOW_ROWS = 256
DETERMINISTIC = ("nltcs", "plants", "accidents")


def models(zoo):
    circuits = zoo.parent / "data/circuits"
    found = {name: (circuits / f"psdd/{name}.psdd", circuits / f"data/{name}.test.csv.gz") for name in DETERMINISTIC}
    for states in (16, 64):
        name = f"digits-hclt-{states}"
        found[name] = (zoo / f"models/digits-hclt/{name}.jpc.gz", f"{zoo}/reference/{name}.safetensors:rows")
    found["NIPS5"] = (circuits / "spnc/NIPS5.bin", circuits / "spnc/NIPS5.input.csv")
    return found


def categories(circuit):
    """The circuit with tables for histograms, which must be over whole numbers from 0 on."""
    def leaf(node):
        if node[0] != "hist":
            return node
        breaks = node[2].astype(int)
        assert (breaks == node[2]).all() and breaks[0] >= 0
        values = np.full(breaks[-1], -np.inf)
        for a, b, density in zip(breaks, breaks[1:], node[3]):
            values[a:b] = density
        return ("cat", node[1], values)

    # A domain of two: one module a node in spflow.
    return types.SimpleNamespace(nodes=[leaf(n) for n in circuit.nodes], root=circuit.root, nvars=circuit.nvars,
                                 vtree_ids=circuit.vtree_ids, domain=np.full(circuit.nvars, 2))


def undetermined(a, model, folder):
    """The graph of a circuit that is not said to be deterministic, so that the general evaluator is what it gets."""
    graph = folder / "general.kir"
    run(a.bin / "kiln", "compile", model, "--emit", "kir", "-o", graph)
    graph.write_text(re.sub(r"^(  circuit @.*) deterministic \{", r"\1 {", graph.read_text(), flags=re.M))
    return graph


class Kiln:
    """An artifact by `kiln-run bench`."""

    def __init__(self, a, model, folder, name, *options):
        self.a, self.folder, self.artifact = a, folder, folder / f"{name}.kiln"
        run(a.bin / "kiln", "compile", model, "--target", "cpu:native", "-o", self.artifact, *options)
        self.counts = {}

    def bench(self, inputs, threads, count):
        return last_json(run(self.a.bin / "kiln-run", "bench", self.artifact, "--entry", "log_likelihood", "--inputs", inputs,
                             "--threads", threads, "--iterations", count, "--warmup", max(2, min(count // 5, 200)),
                             "--outputs", self.folder / "out.npz", "--json"))

    def prepare(self, inputs, threads, expected):
        """The largest error of the first rows, absolute."""
        facts = self.bench(inputs, threads, 20)
        self.counts[inputs, threads] = max(5, int(self.a.seconds / statistics.median(facts["latencies_s"])))
        found = np.load(facts["outputs"])["log_likelihood"][:len(expected)]
        return float(np.abs(found - expected).max())

    def __call__(self, inputs, threads):
        return statistics.mean(self.bench(inputs, threads, self.counts[inputs, threads])["latencies_s"])


def peers(a, bench, pc, circuit, rows):
    """Calls by name, after a first call with as many rows as may be."""
    import torch

    plain = categories(circuit) if any(n[0] == "hist" for n in circuit.nodes) else circuit
    make = {"numpy": lambda: lambda x: pc.log_likelihood(circuit, x.astype(float)),
            "torch": lambda: bench.torch_engine(plain, 4096),
            "compile": lambda: bench.torch_engine(plain, 4096, True),
            "spflow": lambda: bench.spflow_engine(plain, 4096)}
    found = {}
    for name in a.peers:
        torch.set_num_threads(1)
        try:
            call = make[name]()
            error = np.abs(call(rows[:8]) - pc.log_likelihood(circuit, rows[:8].astype(float))).max()
            print(f"  {name}: error {error:.1e}", file=sys.stderr)
            # Categories of spflow must add up to one, histograms need not.
            if error < 1e-2:
                found[name] = call
        except Exception as e:  # Not installed, or not able.
            print(f"  {name}: not run: {type(e).__name__}: {e}", file=sys.stderr)
    return found


def peer_timer(a, call, rows):
    """A function that gives the time of a call with all rows, and whether it is scaled."""
    small = rows[:SLOW_ROWS]
    call(small)
    estimate = best_of(lambda: call(small), 1) * len(rows) / len(small)
    if estimate > a.slow:
        return (lambda: estimate), True
    return timer(lambda: call(rows), a.seconds), False


def counts(circuit):
    """Edges, and terms of sums."""
    inner = [n for n in circuit.nodes if n[0] in ("prod", "sum")]
    return sum(len(n[1]) for n in inner), sum(len(n[1]) for n in inner if n[0] == "sum")


def limit(a, name, terms, batch, elem):
    """Seconds a row."""
    size = np.dtype(elem).itemsize
    if name in DETERMINISTIC:
        # A set of rows in bits and a position for each of two factors.
        block = min(batch, 256)
        moved = terms * 2 * (2 / block + 1 / 8 if batch > 1 else 2)
        x, y = (np.ones(1 << 15, np.float64) for _ in range(2))
        return moved / (2 * x.nbytes / timer(lambda: np.dot(x, y), 0.05)())
    x = np.ones((768, 768), elem)
    arithmetic = 2 * terms / (2 * 768**3 / best_of(lambda: x @ x, 10))
    block = min(batch, 128 // size)
    x, y = (np.ones(max(64, min(terms, 1 << 16)) // 2, elem) for _ in range(2))
    return max(arithmetic, terms * size / block / (2 * x.nbytes / timer(lambda: np.dot(x, y), 0.05)()))


def shown(seconds):
    return f"{seconds * 1e3:.4g}"


def measure(a, name, kilns, peer_calls, rows, circuit, expected, folder):
    import torch

    edges, terms = counts(circuit)
    lines = []
    for threads in a.threads:
        torch.set_num_threads(threads)
        for batch in a.batches:
            x = np.tile(rows, (-(-batch // len(rows)), 1))[:batch]
            inputs, errors = {}, {}
            for elem, kiln in kilns.items():
                inputs[elem] = folder / f"{batch}-{elem}.npz"
                np.savez(inputs[elem], x=x.astype(elem.removesuffix("-general")))
                errors[elem] = kiln.prepare(inputs[elem], threads, expected[:batch])
            timers = {peer: peer_timer(a, call, x) for peer, call in peer_calls.items()}
            rounds = {engine: [] for engine in [*kilns, *timers]}
            for _ in range(a.rounds):
                for elem, kiln in kilns.items():
                    rounds[elem].append(kiln(inputs[elem], threads))
                for peer, (call, _) in timers.items():
                    rounds[peer].append(call())
            median = {engine: statistics.median(times) for engine, times in rounds.items()}
            best = min(timers, key=median.get, default=None)
            ratio = lambda elem: statistics.median(p / o for p, o in zip(rounds[best], rounds[elem])) if best else None
            per_edge = lambda elem: f"{median[elem] / batch / edges * 1e9:.3g}"
            bound = {elem: limit(a, name, terms, batch, elem) / edges * 1e9 / threads for elem in ("float64", "float32")}
            peer = lambda p: ("~" if timers[p][1] else "") + shown(median[p]) if p in timers else "not run"
            line = [name, threads, batch, shown(median["float64"]), shown(median["float32"]), *map(peer, PEERS), best or "-",
                    *(f"**{ratio(e):.1f}**" if best else "-" for e in ("float64", "float32")),
                    *(f"{per_edge(e)} ({bound[e]:.2g})" for e in ("float64", "float32")),
                    f"{errors['float64']:.0e}", f"{errors['float32']:.0e}"]
            general = median.get("float64-general")
            lines.append((line, general and [name, threads, batch, shown(median["float64"]), shown(general),
                                             f"**{general / median['float64']:.1f}**", f"{errors['float64-general']:.0e}"]))
            print("  " + " | ".join(map(str, line)), file=sys.stderr, flush=True)
    return lines


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    ap.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("../shared/zoo"))
    ap.add_argument("--models", nargs="+")
    ap.add_argument("--peers", nargs="*", default=PEERS)
    ap.add_argument("--batches", nargs="+", type=int, default=[1, 256, 4096])
    ap.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--seconds", type=float, default=0.3, help="of each engine in each round")
    ap.add_argument("--slow", type=float, default=1.0)
    ap.add_argument("--wait", action="store_true")
    a = ap.parse_args()
    a.zoo = a.zoo.resolve()
    sys.path[:0] = [str(a.zoo / "make"), str(a.zoo / "bench")]
    import bench_pc
    import pc

    known = models(a.zoo)
    with tempfile.TemporaryDirectory() as top:
        ready = []
        for name in a.models or known:
            print(name, file=sys.stderr, flush=True)
            folder = pathlib.Path(top) / name
            folder.mkdir()
            model, data = known[name]
            circuit, rows = pc.read_circuit(model), pc.read_data(data).astype(np.int64)
            kilns = {"float64": Kiln(a, model, folder, "f64"), "float32": Kiln(a, model, folder, "f32", "--weights", "f32")}
            if name in DETERMINISTIC:
                kilns["float64-general"] = Kiln(a, undetermined(a, model, folder), folder, "general",
                                                "--disable", "prove-determinism")
            expected = pc.log_likelihood(circuit, rows[:256].astype(float))
            ready.append((name, kilns, peers(a, bench_pc, pc, circuit, rows), rows, circuit, expected, folder))
        if a.wait:
            print("ready", file=sys.stderr, flush=True)
            sys.stdin.readline()
        lines = [line for each in ready for line in measure(a, *each)]
    print("### Log-likelihoods of circuits, ms a batch; nanoseconds an edge and row with the limit of the cores in brackets\n")
    table(["circuit", "threads", "rows", "kiln f64", "kiln f32", *PEERS, "fastest peer", "its time / f64", "its time / f32",
           "ns an edge, f64", "ns an edge, f32", "error f64", "error f32"], [line for line, _ in lines])
    trees = [line for _, line in lines if line]
    if trees:
        print("### Active trees against the general evaluator, f64, ms a batch\n")
        table(["circuit", "threads", "rows", "active trees", "general", "general / active trees", "error of general"], trees)


if __name__ == "__main__":
    main()
