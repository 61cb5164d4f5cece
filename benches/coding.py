#!/usr/bin/env python3
"""What rows cost when they are coded with circuits, and how fast, as a Markdown table.

    python benches/coding.py [--shared ../shared] [--bin target/release] [--rounds 5] [SET ...]

SHARED holds data/circuits: models, and the test rows of their data sets; the digits are those of this repository. Every
stream is decoded again and compared. Speed is the best of the rounds, in bytes of CSV-free rows, one byte a value, for one
thread.
"""
import argparse
import gzip
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sets", nargs="*")
    p.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared"))
    p.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    p.add_argument("--rounds", type=int, default=5)
    return p.parse_args()


def sets(shared):
    folder = shared / "data/circuits"
    for name in ("nltcs", "plants", "tretail", "accidents", "bbc", "ad"):
        yield name, folder / f"psdd/{name}.psdd", folder / f"data/{name}.test.csv.gz"
    digits = HERE / "examples/models/digits-hclt"
    yield "digits", digits / "digits-hclt-16.jpc.gz", digits / "test-rows.csv.gz"


def facts(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def numbers(path):
    text = gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()
    return [[int(x) for x in line.split(",")] for line in text.split()]


def main():
    a = arguments()
    kiln = a.bin / "kiln"
    print("| rows | raw bytes | stream | ideal, bits | messages, bits | over by | allowed | looked at | naive | ratio | encode, MB/s | decode, MB/s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, model, rows in sets(a.shared):
        if a.sets and name not in a.sets:
            continue
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            artifact, stream, again = work / "a.kiln", work / "rows.bin", work / "rows.csv"
            subprocess.run([kiln, "compile", model, "-o", artifact, "--target", "cpu:native"], check=True, capture_output=True)
            speed = {"encode": 0.0, "decode": 0.0}
            for _ in range(a.rounds):
                e = facts(kiln, "encode", artifact, rows, "-o", stream, "--json")
                d = facts(kiln, "decode", artifact, stream, "-o", again, "--json")
                speed = {"encode": max(speed["encode"], e["mb_per_s"]), "decode": max(speed["decode"], d["mb_per_s"])}
            assert numbers(again) == numbers(rows), f"{name} came back changed"
            ideal, bits = e["ideal_bits"], 8 * e["message_bytes"]
            allowed = ideal / 10_000 + 64 * e["blocks"]
            looked, naive = e["visits_per_row"], e["naive_visits_per_row"]
            cells = [name, e["raw_bytes"], e["bytes"], f"{ideal:.1f}", bits, f"{bits - ideal:.1f}", f"{allowed:.1f}", looked, naive,
                     f"{naive / looked:.1f}", f"{speed['encode']:.1f}", f"{speed['decode']:.1f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
