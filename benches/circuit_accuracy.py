#!/usr/bin/env python3
"""How far the log-likelihoods of compiled circuits are from an evaluator of their own, as a Markdown table.

    python benches/circuit_accuracy.py [--shared ../shared] [--bin target/release] [--rows 500] [MODEL ...]

SHARED holds data/circuits (models, rows and goldens.json) and zoo (the digits, and make/pc.py: the evaluator, in numpy and
float64, one node at a time). Rows are the first of each data set; `half missing` are the same with every second cell gone.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*")
    p.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared"))
    p.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    p.add_argument("--rows", type=int, default=500)
    return p.parse_args()


def models(shared):
    """Name, model and rows of each."""
    folder = shared / "data/circuits"
    for name, golden in json.loads((folder / "goldens.json").read_text())["models"].items():
        data = golden.get("data", {})
        rows = data.get("file") or data.get("input")
        if rows:
            yield name, folder / golden["file"], str(folder / rows)
    for name, model in (("digits-hclt-16", "digits-hclt/digits-hclt-16.jpc.gz"), ("digits-hclt-64", "digits-hclt/digits-hclt-64.jpc.gz"),
                        ("digits-clt", "digits-clt/digits-clt.psdd")):
        yield name, shared / "zoo/models" / model, f"{shared}/zoo/reference/{name}.safetensors:rows"


def ask(kiln, work, artifact, x):
    feeds, out = work / "x.npz", work / "y.npz"
    np.savez(feeds, x=x)
    command = [kiln, "run", artifact, "--entry", "log_likelihood", "--inputs", feeds, "--outputs", out]
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    return np.load(out)["log_likelihood"].astype(np.float64)


def main():
    a = arguments()
    sys.path.insert(0, str(a.shared / "zoo/make"))
    import pc

    print("| model | rows | smallest ln P | f64 | f64, half missing | f32 | f32, half missing |")
    print("|---|---|---|---|---|---|---|")
    for name, model, rows in models(a.shared):
        if a.models and name not in a.models:
            continue
        circuit = pc.read_circuit(str(model))
        x = np.asarray(pc.read_data(rows), np.float64)[:a.rows]
        hidden = x.copy()
        hidden[(np.arange(x.shape[1]) + np.arange(len(x))[:, None]) % 2 == 1] = np.nan
        expected = [pc.log_likelihood(circuit, rows) for rows in (x, hidden)]
        errors = []
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            for options, dtype in ((), np.float64), (("--weights", "f32"), np.float32):
                artifact = work / "a.kiln"
                command = [a.bin / "kiln", "compile", model, "-o", artifact, "--target", "cpu:native", *options]
                subprocess.run([str(c) for c in command], check=True, capture_output=True)
                for rows, reference in zip((x, hidden), expected):
                    found = ask(a.bin / "kiln", work, artifact, rows.astype(dtype))
                    finite = np.isfinite(reference)
                    assert (np.isfinite(found) == finite).all(), f"{name} {dtype.__name__}: what is impossible differs"
                    errors.append(np.max(np.abs(found - reference)[finite] / np.maximum(np.abs(reference[finite]), 1e-3)))
        cells = [name, len(x), f"{expected[0].min():.2f}", *(f"{e:.1e}" for e in errors)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
