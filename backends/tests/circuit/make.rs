//! Random circuits, the rows asked about, and queries of them by compiled code and by the interpreter.

use crate::harness::{Built, Random};
use kiln_ir::{ElemType, eval};
use kiln_kernels::Level;
use std::{collections::HashMap, fmt::Write};

/// How a random circuit is made.
#[derive(Clone, Copy)]
pub struct Make {
    pub variables: usize,
    /// Nodes that share a scope.
    pub width: usize,
    /// Whether the sums of a scope share all products of it.
    pub dense: bool,
    pub real: bool,
    /// Values of discrete variables.
    pub values: usize,
}

pub struct Text {
    body: String,
    next: usize,
}

impl Text {
    fn node(&mut self, what: &str) -> usize {
        writeln!(self.body, "  n{} = {what}", self.next).unwrap();
        self.next += 1;
        self.next - 1
    }
}

pub fn log_weights(random: &mut Random, n: usize) -> Vec<f64> {
    let raw: Vec<f64> = (0..n).map(|_| 0.02 + f64::from(random.float()).abs()).collect();
    let total: f64 = raw.iter().sum();
    raw.iter().map(|w| (w / total).ln()).collect()
}

pub fn list(values: &[f64]) -> String {
    values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ")
}

impl Make {
    fn leaf(&self, random: &mut Random, var: usize) -> String {
        if self.real && var.is_multiple_of(4) {
            let p = log_weights(random, 3);
            let start = f64::from(random.float());
            // Its mass is 1.
            let breaks = [start, start + 0.25, start + 0.75, start + 2.75];
            let density: Vec<f64> = p.iter().zip(breaks.windows(2)).map(|(p, b)| p - (b[1] - b[0]).ln()).collect();
            return format!("histogram var={var} breaks=[{}] log=[{}]", list(&breaks), list(&density));
        }
        if self.real && var.is_multiple_of(2) {
            return format!(
                "gaussian var={var} mean={:?} std={:?}",
                f64::from(random.float()),
                0.5 + f64::from(random.float()).abs()
            );
        }
        match (random.below(4), self.dense) {
            (0, false) => format!("indicator var={var} value={}", random.below(self.values)),
            (1, false) => format!("binomial var={var} trials={} log=-0.7", self.values - 1),
            _ => format!("categorical var={var} log=[{}]", list(&log_weights(random, self.values))),
        }
    }

    /// Nodes over the variables `from..to`.
    fn scope(&self, text: &mut Text, random: &mut Random, from: usize, to: usize) -> Vec<usize> {
        if to - from == 1 {
            let leaves: Vec<String> = (0..self.width).map(|_| self.leaf(random, from)).collect();
            return leaves.iter().map(|leaf| text.node(leaf)).collect();
        }
        let middle = from + 1 + random.below(to - from - 1);
        let [left, right] = [(from, middle), (middle, to)].map(|(a, b)| self.scope(text, random, a, b));
        // Every node is used.
        let turn = if self.dense { 0 } else { random.below(self.width) };
        let product = |i: usize| format!("product n{}, n{}", left[i], right[(i + turn) % self.width]);
        let products: Vec<usize> = (0..self.width).map(|i| text.node(&product(i))).collect();
        (0..self.width)
            .map(|i| {
                let count = if self.dense { self.width } else { 1 + random.below(self.width) };
                let weights = log_weights(random, count);
                let first = if self.dense { 0 } else { i };
                let term = |i: usize| format!("n{} log={:?}", products[(first + i) % self.width], weights[i]);
                let terms: Vec<String> = (0..count).map(term).collect();
                text.node(&format!("sum {}", terms.join(", ")))
            })
            .collect()
    }

    pub fn circuit(&self, seed: u64) -> String {
        let mut random = Random(seed);
        let mut text = Text { body: String::new(), next: 0 };
        let tops = self.scope(&mut text, &mut random, 0, self.variables);
        let weights = log_weights(&mut random, tops.len());
        let terms: Vec<String> = tops.iter().zip(weights).map(|(n, w)| format!("n{n} log={w:?}")).collect();
        text.node(&format!("sum {}", terms.join(", ")));
        let domain = |v: usize| if self.real && v.is_multiple_of(2) { "real".into() } else { self.values.to_string() };
        let domains: Vec<String> = (0..self.variables).map(domain).collect();
        format!("circuit @c vars=[{}] {{\n{}}}", domains.join(","), text.body)
    }
}

/// Two inputs of each kind whose mass is not 1, and a bin alone.
pub const UNEVEN: &str = "circuit @c vars=[real,3,2] {
  n0 = histogram var=0 breaks=[-1.0, 0.5, 2.0, 3.5] log=[-1.5, -0.4, -0.4]
  n1 = histogram var=0 breaks=[1.0, 4.0] log=[-0.9]
  n2 = categorical var=1 log=[-1.0, -1.0, -0.5]
  n3 = histogram var=1 breaks=[0.0, 1.0, 3.0] log=[-2.0, -0.5]
  n4 = categorical var=2 log=[-0.2, -0.9]
  n5 = categorical var=2 log=[-1.0, -1.0]
  n6 = product n0, n2, n4
  n7 = product n1, n3, n5
  n8 = product n0, n3, n5
  n9 = sum n6 log=-1.1, n7 log=-0.9, n8 log=-1.3
}";

pub fn module(circuit: &str, variables: usize, x: &str, elem: &str, kind: &str, results: &str) -> String {
    asking(circuit, variables, x, false, elem, kind, results)
}

/// A module that asks a circuit, with a mask or without.
pub fn asking(circuit: &str, variables: usize, x: &str, mask: bool, elem: &str, kind: &str, results: &str) -> String {
    let mut inputs = format!("%x: {x}[B,{variables}]");
    let mut operands = String::new();
    if mask {
        write!(inputs, ", %m: i1[B,{variables}]").unwrap();
        operands += " mask=%m";
    }
    if kind == "sample" {
        inputs += ", %s: i64[B]";
        operands += " seed=%s";
    }
    let types: Vec<&str> = results.split(';').collect();
    let named: Vec<String> = types.iter().enumerate().map(|(i, t)| format!("r{i}: {t}")).collect();
    let values: Vec<String> = (0..types.len()).map(|i| format!("%{i}")).collect();
    let (values, types) = (values.join(", "), types.join(", "));
    format!(
        "module @m stage=legal {{\ndim B = 1..4096\n{circuit}\nentry @f({inputs}) -> ({}) {{\n  \
         {values} = circuit.query %x{operands} circuit=@c kind={kind} elem={elem} : {types}\n  return {values}\n}}\n}}",
        named.join(", ")
    )
}

pub fn rows(random: &mut Random, make: &Make, elem: ElemType, count: usize, missing: usize) -> eval::Tensor {
    let cell = |random: &mut Random, v: usize| {
        if random.below(10) < missing {
            f64::NAN
        } else if make.real && v.is_multiple_of(2) {
            f64::from(random.float()) * 2.0
        } else {
            random.below(make.values) as f64
        }
    };
    let cells: Vec<f64> = (0..count * make.variables).map(|i| cell(random, i % make.variables)).collect();
    if elem.is_float() {
        return eval::Tensor::floats(elem, [count, make.variables], cells);
    }
    let cells = cells.iter().map(|x| *x as i64).collect();
    eval::Tensor::ints(elem, [count, make.variables], cells)
}

/// Marginals of impossible rows are NaN on both sides, which counts as equal; NaN on one side stays.
pub fn without_nan(mut a: eval::Tensor, mut b: eval::Tensor) -> (eval::Tensor, eval::Tensor) {
    if let (eval::Data::F(a), eval::Data::F(b)) = (&mut a.data, &mut b.data) {
        let both = a.iter_mut().zip(b).filter(|(a, b)| a.is_nan() && b.is_nan());
        both.for_each(|(a, b)| (*a, *b) = (0.0, 0.0));
    }
    (a, b)
}

pub fn check(built: &Built, make: &Make, elem: ElemType, count: usize, missing: usize, tolerance: f64) {
    let mut random = Random(count as u64 + 3);
    let x = rows(&mut random, make, elem, count, missing);
    let mut inputs = HashMap::from([("x".to_string(), x)]);
    for (name, ty) in built.module.regions[built.module.entry("f").unwrap().body]
        .args
        .iter()
        .map(|a| (built.module.name_of(*a), built.module.ty(*a)))
    {
        match name.as_str() {
            "s" => {
                let seeds = (0..count as i64).map(|i| i * 77 - 5).collect();
                inputs.insert(name, eval::Tensor::ints(ElemType::I64, [count], seeds));
            }
            "m" => {
                let given = (0..count * make.variables).map(|_| i64::from(random.below(3) > 0)).collect();
                inputs.insert(name, eval::Tensor::ints(ty.elem, [count, make.variables], given));
            }
            _ => {}
        }
    }
    let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
    for level in built.levels.iter().copied() {
        let first = built.run("f", level, 1, &inputs).unwrap();
        if matches!(level, Level::Cpu(_)) {
            assert_eq!(first, built.run("f", level, 3, &inputs).unwrap(), "{}: threads", level.name());
        }
        for ((name, expected), bytes) in expected.iter().zip(&first) {
            let found = eval::Tensor::from_bytes(expected.elem, expected.shape.clone(), bytes).unwrap();
            let (found, expected) = without_nan(found, expected.clone());
            let error = found.relative_error(&expected);
            assert!(error <= tolerance, "{} {name} of {count} rows: {error:e}", level.name());
        }
        // A row alone gives what it gives among others.
        let single: HashMap<String, eval::Tensor> = inputs
            .iter()
            .map(|(name, t)| {
                let size = t.to_bytes().len() / count;
                let shape = [&[1][..], &t.shape[1..]].concat();
                (name.clone(), eval::Tensor::from_bytes(t.elem, shape, &t.to_bytes()[..size]).unwrap())
            })
            .collect();
        let alone = built.run("f", level, 1, &single).unwrap();
        for (alone, all) in alone.iter().zip(&first) {
            assert_eq!(alone[..], all[..all.len() / count], "{}: a row alone", level.name());
        }
    }
}

pub const SPARSE: Make = Make { variables: 7, width: 5, dense: false, real: false, values: 3 };
pub const BINARY: Make = Make { values: 2, ..SPARSE };
pub const MIXED: Make = Make { real: true, ..SPARSE };
/// Too long to be written out.
pub const LONG: Make = Make { variables: 14, width: 12, ..BINARY };
pub const DENSE: Make = Make { variables: 9, width: 16, dense: true, real: false, values: 17 };

/// A mixture of products of histograms, one a variable: over whole numbers, or over halves too.
pub fn histograms(variables: usize, products: usize, halves: bool) -> String {
    let mut random = Random(products as u64);
    let mut text = Text { body: String::new(), next: 0 };
    let mut tops = vec![];
    for _ in 0..products {
        let leaves: Vec<String> = (0..variables)
            .map(|var| {
                let first = if halves && var == 0 { 0.5 } else { 0.0 };
                let log = list(&log_weights(&mut random, 3));
                let leaf = text.node(&format!("histogram var={var} breaks=[{first:?}, 1.0, 3.0, 7.0] log=[{log}]"));
                format!("n{leaf}")
            })
            .collect();
        tops.push(text.node(&format!("product {}", leaves.join(", "))));
    }
    let weights = log_weights(&mut random, products);
    let terms: Vec<String> = tops.iter().zip(weights).map(|(n, w)| format!("n{n} log={w:?}")).collect();
    text.node(&format!("sum {}", terms.join(", ")));
    format!("circuit @c vars=[{}] {{\n{}}}", vec!["real"; variables].join(","), text.body)
}

/// A deterministic circuit: a decision on each variable in turn.
pub fn deterministic(variables: usize) -> String {
    let mut random = Random(9);
    let mut text = Text { body: String::new(), next: 0 };
    let mut below: Vec<usize> = vec![];
    for var in (0..variables).rev() {
        let [no, yes] = [0, 1].map(|value| text.node(&format!("indicator var={var} value={value}")));
        let nodes = if var == 0 { 1 } else { 2 };
        below = (0..nodes)
            .map(|i| {
                let parts: Vec<usize> = match below.as_slice() {
                    [] => vec![no, yes],
                    below => {
                        let pick = |k: usize| below[(i + k) % below.len()];
                        let pairs = [(no, pick(0)), (yes, pick(1))];
                        pairs.iter().map(|(a, b)| text.node(&format!("product n{a}, n{b}"))).collect()
                    }
                };
                let w = log_weights(&mut random, 2);
                text.node(&format!("sum n{} log={:?}, n{} log={:?}", parts[0], w[0], parts[1], w[1]))
            })
            .collect();
    }
    let domains = vec!["2"; variables].join(",");
    format!("circuit @c vars=[{domains}] deterministic {{\n{}}}", text.body)
}

pub const ROWS_OF_UNEVEN: Make = Make { variables: 3, width: 0, dense: false, real: true, values: 2 };
