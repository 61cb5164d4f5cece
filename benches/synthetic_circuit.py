#!/usr/bin/env python3
"""Write a circuit of any size as Juice text, to measure what compiling it costs.

    python benches/synthetic_circuit.py OUT.jpc [--kind sparse|decisions|dense] [--edges 5000000] [--variables 256]

sparse     a balanced tree over the variables, at each of its nodes sums of four random products, as a PSDD has them;
decisions  sums that decide on one variable after the other, which makes the circuit deterministic;
dense      the same tree as `sparse`, with 64 products at each node that all 64 sums of it share.

    /usr/bin/time -v kiln compile OUT.jpc -o out.kiln
"""
import argparse
import math
import random


class Writer:
    def __init__(self, path):
        self.file, self.nodes, self.edges = open(path, "w+"), 0, 0
        self.file.write(f"jpc {0:12}\n")

    def node(self, letter, rest):
        self.file.write(f"{letter} {self.nodes} 0 {rest}\n")
        self.nodes += 1
        return self.nodes - 1

    def literals(self, var):
        return [self.node("L", -var - 1), self.node("L", var + 1)]

    def product(self, children):
        self.edges += len(children)
        return self.node("P", f"{len(children)} " + " ".join(map(str, children)))

    def sum(self, children):
        self.edges += len(children)
        parts = [random.random() + 0.01 for _ in children]
        total = sum(parts)
        terms = " ".join(f"{c} {math.log(p / total)!r}" for c, p in zip(children, parts))
        return self.node("S", f"{len(children)} {terms}")

    def finish(self):
        self.file.seek(0)
        self.file.write(f"jpc {self.nodes:<12}\n")
        self.file.close()


def tree(w, first, last, width, node):
    """`width` nodes over the variables `first..last`."""
    if last - first == 1:
        literals = w.literals(first)
        return [w.sum(literals) for _ in range(width)]
    middle = (first + last) // 2
    left, right = tree(w, first, middle, width, node), tree(w, middle, last, width, node)
    return node(left, right)


def shuffled(nodes, count):
    """Each node about equally often."""
    out = [nodes[i % len(nodes)] for i in range(count)]
    random.shuffle(out)
    return out


def sparse(w, edges, variables):
    # Each sum has four terms and each product two factors: twelve edges.
    width = max(1, round(edges / (12 * (variables - 1))))

    def node(left, right):
        products = [w.product(pair) for pair in zip(shuffled(left, 4 * width), shuffled(right, 4 * width))]
        return [w.sum(products[4 * i:4 * i + 4]) for i in range(width)]

    w.sum(tree(w, 0, variables, width, node))


def dense(w, edges, variables):
    states = 64
    # Sums of 64 terms, 64 of them for each pair of regions, and the products.
    nodes = max(1, round(edges / (variables * (states * states + 2 * states))))

    def node(left, right):
        out = []
        for block in range(nodes):
            at = range(block * states, (block + 1) * states)
            products = [w.product((left[i], right[(i + block) % len(right)])) for i in at]
            out += [w.sum(products) for _ in range(states)]
        return out

    w.sum(tree(w, 0, variables, nodes * states, node))


def decisions(w, edges, variables):
    # A sum decides between two products: six edges.
    width = max(1, round(edges / (6 * variables)))
    below = None
    for var in reversed(range(variables)):
        no, yes = w.literals(var)
        count = min(width, 2**var)
        if below is None:
            below = [w.sum((no, yes)) for _ in range(count)]
            continue
        ways = shuffled(below, 2 * count)
        below = [w.sum((w.product((no, ways[2 * i])), w.product((yes, ways[2 * i + 1])))) for i in range(count)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--kind", choices=["sparse", "decisions", "dense"], default="sparse")
    p.add_argument("--edges", type=int, default=5_000_000)
    p.add_argument("--variables", type=int, default=256)
    a = p.parse_args()
    random.seed(0)
    w = Writer(a.out)
    {"sparse": sparse, "decisions": decisions, "dense": dense}[a.kind](w, a.edges, a.variables)
    w.finish()
    print(f"{a.out}: {w.nodes} nodes, {w.edges} edges")


if __name__ == "__main__":
    main()
