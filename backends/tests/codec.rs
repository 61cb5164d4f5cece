//! Tables for the codec: rows coded with them cost what the circuit says they cost, and come back.

use kiln_backends::codec::{note, section};
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, NodeId, Origin, Property};
use kiln_runtime::codec::{Codec, CodecError, Encoder};
use kiln_runtime::format::ElemType;
use kiln_runtime::{Error, Tensor, TensorView};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn log(&mut self) -> f64 {
        ((self.below(1000) + 1) as f64 / 1000.0).ln()
    }
}

/// Random nodes over some variables, with every form that a node can take.
struct Maker {
    random: Random,
    builder: Builder,
    values: Vec<u32>,
}

impl Maker {
    fn new(seed: u64, variables: usize) -> Maker {
        let mut random = Random(seed);
        let values: Vec<u32> = (0..variables).map(|_| 1 + random.below(4) as u32).collect();
        let domains = values.iter().map(|k| Domain::Discrete(*k)).collect();
        Maker { random, builder: Builder::new("random", domains), values }
    }

    fn input(&mut self, v: u32) -> NodeId {
        let k = self.values[v as usize];
        let distribution = match self.random.below(4) {
            0 => Distribution::Indicator { value: self.random.below(k as usize) as u32 },
            1 if k > 1 => Distribution::Binomial { trials: k - 1, log_p: self.random.log() },
            2 => Distribution::Logistic { mean: 1.5, scale: 0.1 + self.random.below(9) as f64, values: k },
            _ => {
                let raw: Vec<f64> = (0..k).map(|_| self.random.log().exp()).collect();
                let total: f64 = raw.iter().sum();
                Distribution::Categorical { log_p: raw.iter().map(|p| (p / total).ln()).collect() }
            }
        };
        self.builder.input(v, distribution, Origin::default()).unwrap()
    }

    /// A sum whose weights need not add up to 1, one of them at times 0.
    fn sum(&mut self, children: &[NodeId]) -> NodeId {
        let mut weights: Vec<f64> = children.iter().map(|_| self.random.log() + 0.3).collect();
        if weights.len() > 1 && self.random.below(4) == 0 {
            weights[0] = f64::NEG_INFINITY;
        }
        self.builder.sum(children, &weights, Origin::default()).unwrap()
    }

    fn product(&mut self, children: &[NodeId]) -> NodeId {
        self.builder.product(children, Origin::default()).unwrap()
    }

    /// Two to four nodes over the variables.
    fn nodes(&mut self, variables: &[u32]) -> Vec<NodeId> {
        let count = 2 + self.random.below(3);
        let first: Vec<NodeId> = if let [v] = variables {
            (0..count).map(|_| self.input(*v)).collect()
        } else {
            let parts = variables.len().min(2 + self.random.below(2));
            let parts: Vec<Vec<NodeId>> =
                variables.chunks(variables.len().div_ceil(parts)).map(|part| self.nodes(part)).collect();
            (0..count + 2).map(|_| self.combine(&parts)).collect()
        };
        let mut nodes = first.clone();
        for _ in 0..count {
            let chosen: Vec<NodeId> = nodes.iter().filter(|_| self.random.below(2) == 0).copied().collect();
            let node = match chosen[..] {
                [] => self.product(&first[..1]),
                _ => self.sum(&chosen),
            };
            nodes.push(node);
        }
        // Few for the parents, so that some are shared.
        nodes.split_off(nodes.len() - 2 - self.random.below(2))
    }

    /// A product of a node of each part, at times as a product of products.
    fn combine(&mut self, parts: &[Vec<NodeId>]) -> NodeId {
        let chosen: Vec<NodeId> = parts.iter().map(|part| part[self.random.below(part.len())]).collect();
        match chosen[..] {
            [a, b, c] if self.random.below(2) == 0 => {
                let inside = self.product(&[a, b]);
                self.product(&[c, inside])
            }
            _ => self.product(&chosen),
        }
    }

    fn finish(mut self, roots: &[NodeId]) -> Circuit {
        let root = self.sum(roots);
        let (circuit, _) = self.builder.finish(root);
        let report = circuit.check();
        assert!([Property::Smooth, Property::Decomposable].iter().all(|p| report.is(*p) == Some(true)));
        circuit
    }
}

fn structured(seed: u64) -> Circuit {
    let variables = 1 + seed as usize % 7;
    let mut maker = Maker::new(seed, variables);
    let all: Vec<u32> = (0..variables as u32).collect();
    let nodes = maker.nodes(&all);
    maker.finish(&nodes)
}

/// Two ways to split the same variables, which cross.
fn crossing(seed: u64) -> Circuit {
    let mut maker = Maker::new(seed, 4);
    let pairs = [[0, 1], [2, 3], [0, 2], [1, 3]].map(|pair| maker.nodes(&pair));
    let [a, b] = [0, 2].map(|i| maker.combine(&pairs[i..i + 2]));
    let root = maker.builder.sum(&[a, b], &[-0.5, -1.0], Origin::default()).unwrap();
    maker.finish(&[root])
}

fn codec(circuit: &Circuit) -> Codec {
    Codec::from_tables(section(circuit).unwrap()).unwrap()
}

/// Every row of the circuit's domain.
fn all_rows(circuit: &Circuit) -> Vec<Vec<u8>> {
    let mut rows = vec![vec![]];
    for domain in &circuit.variables {
        let k = domain.values().unwrap() as u8;
        rows = rows.iter().flat_map(|row| (0..k).map(|v| [&row[..], &[v]].concat()).collect::<Vec<_>>()).collect();
    }
    rows
}

/// Compares the content of every row with the circuit's log-likelihood, and decodes all that are possible.
#[track_caller]
fn agrees(circuit: &Circuit) {
    let codec = codec(circuit);
    let variables = codec.variables();
    let mass = circuit.log_likelihood(&vec![f64::NAN; variables]);
    let mut possible = vec![];
    for row in all_rows(circuit) {
        let numbers: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        let expected = (mass - circuit.log_likelihood(&numbers)) / std::f64::consts::LN_2;
        let mut encoder = Encoder::new(&codec, ElemType::U8, vec![]).unwrap();
        let pushed = encoder.push(TensorView::of(&[1, variables], &row).unwrap());
        match pushed.and_then(|()| encoder.finish()) {
            Ok((_, summary)) => {
                let error = (summary.ideal_bits - expected).abs();
                assert!(error <= 1e-9 * (1.0 + expected), "{row:?}: {} bits for {expected}", summary.ideal_bits);
                possible.extend(row);
            }
            Err(Error::Codec(CodecError::Impossible { .. })) => assert_eq!(expected, f64::INFINITY, "{row:?}"),
            Err(e) => panic!("{row:?}: {e}"),
        }
    }
    let rows = Tensor::of(&[possible.len() / variables, variables], &possible).unwrap();
    let stream = codec.encode(rows.view()).unwrap();
    assert_eq!(codec.decode(&stream, 1 << 20).unwrap().bytes(), possible);
}

#[test]
fn structured_circuits_cost_what_they_say() {
    for seed in 0..150 {
        let circuit = structured(seed);
        assert!(codec(&circuit).is_ordered(), "seed {seed}");
        agrees(&circuit);
    }
}

#[test]
fn circuits_without_structure_do_too() {
    for seed in 0..20 {
        let circuit = crossing(seed);
        let section = section(&circuit);
        assert!(note(&section).unwrap().starts_with("the circuit is not structured-decomposable"));
        assert!(!codec(&circuit).is_ordered());
        agrees(&circuit);
    }
}

/// A product of many variables at once is cut in two again and again, and no vector underflows.
#[test]
fn wide_products_are_cut() {
    let count = 3000;
    let mut builder = Builder::new("wide", vec![Domain::Discrete(2); count]);
    let input = |b: &mut Builder, v: usize, p: f64| {
        b.input(v as u32, Distribution::bernoulli(p.ln()), Origin::default()).unwrap()
    };
    let product = |b: &mut Builder, p: f64| {
        let inputs: Vec<NodeId> = (0..count).map(|v| input(b, v, p)).collect();
        b.product(&inputs, Origin::default()).unwrap()
    };
    let (a, b) = (product(&mut builder, 0.5), product(&mut builder, 0.25));
    let root = builder.sum(&[a, b], &[0.5f64.ln(); 2], Origin::default()).unwrap();
    let circuit = builder.finish(root).0;
    let codec = codec(&circuit);
    assert!(codec.visits() < 3 * 2 * count as u64 && codec.is_ordered());
    let rows: Vec<u8> = (0..10 * count).map(|i| u8::from(i * i % 7 == 0)).collect();
    let stream = codec.encode(TensorView::of(&[10, count], &rows).unwrap()).unwrap();
    assert_eq!(codec.decode(&stream, 1 << 20).unwrap().bytes(), rows);
}

/// Deciding on a variable at a time: as many scopes as variables, each within the next, whose variables together are many
/// more than their intervals.
#[test]
fn long_chains_of_scopes_are_cut() {
    let count = 100_000;
    let mut builder = Builder::new("chain", vec![Domain::Discrete(2); count]);
    let origin = Origin::default();
    let input = |b: &mut Builder, v: usize, p: f64| b.input(v as u32, Distribution::bernoulli(p.ln()), origin).unwrap();
    let mut below = input(&mut builder, 0, 0.5);
    for v in 1..count {
        let sides = [0.125, 0.75].map(|p| {
            let decided = input(&mut builder, v, p);
            builder.product(&[decided, below], origin).unwrap()
        });
        below = builder.sum(&sides, &[0.5f64.ln(); 2], origin).unwrap();
    }
    let codec = codec(&builder.finish(below).0);
    assert!(codec.is_ordered() && codec.visits() < 10 * count as u64, "{}", codec.visits());
    let rows: Vec<u8> = (0..count).map(|i| u8::from(i * i % 7 == 0)).collect();
    let stream = codec.encode(TensorView::of(&[1, count], &rows).unwrap()).unwrap();
    assert_eq!(codec.decode(&stream, 1 << 20).unwrap().bytes(), rows);
}

#[test]
fn variables_that_the_circuit_leaves_out_are_coded_all_the_same() {
    for seed in 0..4 {
        let mut maker = Maker::new(seed, 5);
        maker.values[4] = 3;
        maker.builder = Builder::new("open", [2, 4, 2, 1, 3].map(Domain::Discrete).to_vec());
        maker.values = vec![2, 4, 2, 1, 3];
        let nodes = maker.nodes(&[0, 2]);
        let circuit = maker.finish(&nodes);
        let codec = codec(&circuit);
        let rows: Vec<u8> = all_rows(&circuit).concat();
        let mut encoder = Encoder::new(&codec, ElemType::U8, vec![]).unwrap();
        let pushed = encoder.push(TensorView::of(&[rows.len() / 5, 5], &rows).unwrap());
        let Ok((stream, summary)) = pushed.and_then(|()| encoder.finish()) else { continue };
        // ln 12 nats a row for what is left out.
        assert!(summary.ideal_bits > (rows.len() / 5) as f64 * 12f64.log2());
        assert_eq!(codec.decode(&stream, 1 << 20).unwrap().bytes(), rows);
    }
}

#[test]
fn what_does_not_code_has_a_reason() {
    let mut builder = Builder::new("real", vec![Domain::Discrete(2), Domain::Real]);
    let origin = Origin::default();
    let a = builder.input(0, Distribution::bernoulli(-1.0), origin).unwrap();
    let b = builder.input(1, Distribution::Gaussian { mean: 0.0, std: 1.0 }, origin).unwrap();
    let root = builder.product(&[a, b], origin).unwrap();
    let real = section(&builder.finish(root).0);
    assert_eq!(real, Err("variable 1 is continuous: a code needs probabilities, not densities".to_owned()));
    assert!(note(&real).unwrap().contains("variable 1 is continuous"));

    let mut builder = Builder::new("nothing", vec![Domain::Discrete(2)]);
    let a = builder.input(0, Distribution::bernoulli(-1.0), origin).unwrap();
    let root = builder.sum(&[a], &[f64::NEG_INFINITY], origin).unwrap();
    let nothing = section(&builder.finish(root).0);
    assert_eq!(nothing, Err("no row has a probability above 0, or a finite one".to_owned()));

    let mut builder = Builder::new("rough", vec![Domain::Discrete(2); 2]);
    let a = builder.input(0, Distribution::bernoulli(-1.0), origin).unwrap();
    let b = builder.input(1, Distribution::bernoulli(-1.0), origin).unwrap();
    let root = builder.sum(&[a, b], &[-0.7, -0.7], origin).unwrap();
    let rough = section(&builder.finish(root).0);
    assert_eq!(rough, Err("n2: the circuit is not smooth and decomposable".to_owned()));
}
