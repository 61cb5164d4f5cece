//! Circuits small enough to know everything about, as tables.

use super::*;
use proptest::prelude::*;

/// Leaves with two distributions each, and above them regions with two mixtures of all four products of their
/// children's nodes; the root has one.
fn regions(values: &[u32], mut random: impl FnMut() -> f64) -> Tables {
    let mut mixture = |n: usize| -> Vec<f64> {
        let raw: Vec<f64> = (0..n).map(|_| random()).collect();
        let total: f64 = raw.iter().sum();
        raw.iter().map(|w| if total > 0.0 { w / total } else { 1.0 / n as f64 }).collect()
    };
    // A root has one node.
    let rows = if values.len() == 1 { 1 } else { 2 };
    let mut variable = |k: u32| Variable { values: k, rows: (0..rows).flat_map(|_| mixture(k as usize)).collect() };
    let variables: Vec<Variable> = values.iter().map(|k| variable(*k)).collect();
    let mut regions: Vec<Region> = (0..values.len() as u32).map(Region::Leaf).collect();
    let mut open: Vec<u32> = (0..values.len() as u32).collect();
    while open.len() > 1 {
        // Pairs in an order that makes the tree neither balanced nor a list.
        let (a, b) = (open.remove(0), open.remove(open.len() / 2));
        let is_root = open.is_empty();
        let mixes = if is_root { 1 } else { 2 };
        let mut inner = Inner { children: [a, b], ..Inner::default() };
        for n in 1..=mixes {
            inner.mix_ends.push(4 * n);
            inner.mix_weights.extend(mixture(4));
            inner.factors.extend([[0, 0], [0, 1], [1, 0], [1, 1]]);
        }
        if !is_root {
            // Two sums over the mixtures, the second also over the first.
            inner.sum_ends = vec![2, 5];
            inner.terms = vec![0, 1, 1, 2, 0];
            inner.sum_weights = [mixture(2), mixture(3)].concat();
            // Parents use the last nodes.
        }
        regions.push(Region::Inner(Box::new(inner)));
        open.push(regions.len() as u32 - 1);
    }
    // Products take sums where there are some.
    let counts: Vec<u32> =
        regions.iter().map(|r| if let Region::Inner(i) = r { i.count() as u32 } else { 2 }).collect();
    for region in &mut regions {
        let Region::Inner(inner) = region else { continue };
        let [a, b] = inner.children.map(|c| counts[c as usize] - 2);
        inner.factors.iter_mut().for_each(|f| *f = [f[0] + a, f[1] + b]);
    }
    Tables { variables, structure: Structure::Regions(regions) }
}

/// The same circuit without its structure.
fn graph(tables: &Tables) -> Tables {
    let Structure::Regions(regions) = &tables.structure else { unreachable!() };
    let (mut graph, mut first) = (Graph::default(), vec![]);
    for region in regions {
        match region {
            Region::Leaf(variable) => {
                first.push(graph.nodes.len() as u32);
                graph.nodes.extend([0, 1].map(|row| Node::Input { variable: *variable, row }));
            }
            Region::Inner(inner) => {
                let (mut mixes, mut start) = (vec![], 0);
                for end in &inner.mix_ends {
                    let mut products = vec![];
                    for e in start..*end as usize {
                        let factors = inner.factors[e].iter().zip(&inner.children);
                        graph.children.extend(factors.map(|(f, child)| first[*child as usize] + f));
                        graph.weights.extend([1.0, 1.0]);
                        products.push(graph.nodes.len() as u32);
                        graph.nodes.push(Node::Product { end: graph.children.len() as u32 });
                    }
                    mixes.push((products, &inner.mix_weights[start..*end as usize]));
                    start = *end as usize;
                }
                first.push(graph.nodes.len() as u32);
                for (products, weights) in mixes {
                    graph.children.extend(products);
                    graph.weights.extend(weights);
                    graph.nodes.push(Node::Sum { end: graph.children.len() as u32 });
                }
                let mut start = 0;
                for end in &inner.sum_ends {
                    let range = start..*end as usize;
                    start = range.end;
                    graph.children.extend(inner.terms[range.clone()].iter().map(|t| first.last().unwrap() + t));
                    graph.weights.extend(&inner.sum_weights[range]);
                    graph.nodes.push(Node::Sum { end: graph.children.len() as u32 });
                }
            }
        }
    }
    if let [Node::Input { .. }, ..] = graph.nodes[..] {
        // Of one variable only the distribution that there is.
        graph.nodes.truncate(if tables.variables.len() == 1 { 1 } else { graph.nodes.len() });
    }
    Tables { variables: tables.variables.clone(), structure: Structure::Graph(graph) }
}

/// The probability of a row, straight from the definition.
fn probability(tables: &Tables, row: &[u32]) -> f64 {
    let Structure::Graph(graph) = &graph(tables).structure else { unreachable!() };
    let mut values = vec![0.0; graph.nodes.len()];
    for (n, (node, range)) in graph.ranges().into_iter().enumerate() {
        let children = range.map(|c| (values[graph.children[c] as usize], graph.weights[c]));
        values[n] = match node {
            Node::Input { variable, row: d } => {
                let variable_ = &tables.variables[variable as usize];
                variable_.rows[(d * variable_.values + row[variable as usize]) as usize]
            }
            Node::Product { .. } => children.map(|(v, _)| v).product(),
            Node::Sum { .. } => children.map(|(v, w)| v * w).sum(),
        };
    }
    *values.last().unwrap()
}

fn tables() -> impl Strategy<Value = Tables> {
    let number = prop_oneof![3 => 0.001..1.0, 1 => Just(0.0)];
    let values = prop::collection::vec(prop_oneof![8 => 1u32..6, 1 => 257u32..300], 1..9);
    (values, prop::collection::vec(number, 64..200)).prop_map(|(values, numbers)| {
        let mut at = 0;
        regions(&values, move || {
            at += 1;
            numbers[at % numbers.len()]
        })
    })
}

/// As many rows as there are seeds, each in the circuit's range.
fn rows(tables: &Tables, seeds: &[u32]) -> Vec<u32> {
    let value = |seed: u32, v: usize| seed.rotate_left(5 * v as u32) % tables.variables[v].values;
    seeds.iter().flat_map(|seed| (0..tables.variables.len()).map(|v| value(*seed, v)).collect::<Vec<_>>()).collect()
}

fn tensor(rows: &[u32], variables: usize) -> Tensor {
    Tensor::of(&[rows.len() / variables, variables], rows).unwrap()
}

/// Three variables of 2, 3 and 300 values.
fn example() -> Tables {
    let mut state = 1u64;
    regions(&[2, 3, 300], move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64
    })
}

fn example_stream(codec: &Codec) -> (Vec<u32>, Vec<u8>) {
    let seeds: Vec<u32> = (0..100u32).map(|i| i.wrapping_mul(2654435761)).collect();
    let rows = rows(&example(), &seeds);
    let stream = codec.encode(tensor(&rows, 3).view()).unwrap();
    (rows, stream)
}

fn codec_error<T: std::fmt::Debug>(result: Result<T>) -> CodecError {
    match result.unwrap_err() {
        Error::Codec(e) => e,
        e => panic!("{e}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_come_back_or_are_explained(tables in tables(), seeds in prop::collection::vec(any::<u32>(), 1..30)) {
        let variables = tables.variables.len();
        let all = rows(&tables, &seeds);
        let likely: Vec<f64> = all.chunks(variables).map(|row| probability(&tables, row)).collect();
        let ideal: f64 = likely.iter().map(|p| -p.log2()).sum();
        for tables in [tables.clone(), graph(&tables)] {
            let codec = Codec::from_tables(tables).unwrap();
            let mut encoder = Encoder::new(&codec, ElemType::U32, vec![]).unwrap();
            match encoder.push(tensor(&all, variables).view()).and_then(|()| encoder.finish()) {
                Ok((stream, summary)) => {
                    prop_assert!(likely.iter().all(|p| *p > 0.0));
                    let again = codec.decode(&stream, 1 << 20).unwrap();
                    prop_assert_eq!(again.as_slice::<u32>().unwrap(), &all[..]);
                    prop_assert!((summary.ideal_bits - ideal).abs() <= 1e-9 * (1.0 + ideal));
                    prop_assert_eq!(summary.bytes, stream.len() as u64);
                    let bits = 8.0 * summary.message_bytes as f64;
                    prop_assert!(bits <= ideal * 1.0001 + 64.0, "{bits} bits for {ideal}");
                }
                Err(Error::Codec(CodecError::Impossible { row, variable, value })) => {
                    prop_assert_eq!(likely[row as usize], 0.0);
                    prop_assert_eq!(all[row as usize * variables + variable as usize], value);
                }
                Err(e) => prop_assert!(false, "{}", e),
            }
        }
    }

    #[test]
    fn hostile_streams_are_errors(at in 0usize..400, with in any::<u8>(), cut in 0usize..400, sealed in any::<bool>()) {
        let codec = Codec::from_tables(example()).unwrap();
        let (_, mut stream) = example_stream(&codec);
        stream.truncate(stream.len() - cut % stream.len());
        let at = at % stream.len();
        prop_assume!(cut > 0 || stream[at] != with);
        stream[at] = with;
        if sealed {
            reseal(&mut stream);
        }
        let decoded = codec.decode(&stream, 1 << 20);
        // Made right again, a message may be another stream's.
        prop_assert!(sealed || decoded.is_err());
    }

    #[test]
    fn hostile_tables_are_errors(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let section: Section = Ok(example());
        let mut bytes = postcard::to_stdvec(&section).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let Ok(Ok(tables)) = postcard::from_bytes::<Section>(&bytes) else { return Ok(()) };
        let Ok(codec) = Codec::from_tables(tables) else { return Ok(()) };
        // What passes the checks codes.
        let zeros = vec![0u8; codec.variables()];
        let _ = codec.encode(TensorView::of(&[1, codec.variables()], &zeros).unwrap());
    }
}

#[test]
fn streams_of_several_blocks_come_back_in_any_pieces() {
    let codec = Codec::from_tables(example()).unwrap();
    let seeds: Vec<u32> = (0..61u32).map(|i| i.wrapping_mul(2654435761)).collect();
    let rows = rows(&example(), &seeds);
    let encode = |piece: usize| {
        let mut encoder = Encoder::new(&codec, ElemType::U32, vec![]).unwrap();
        for (i, rows) in rows.chunks(3 * piece).enumerate() {
            encoder.push(tensor(rows, 3).view()).unwrap();
            if (i + 1) * piece == 20 || (i + 1) * piece == 40 {
                encoder.flush().unwrap();
            }
        }
        encoder.finish().unwrap()
    };
    let (whole, summary) = encode(20);
    assert_eq!((summary.rows, summary.blocks, summary.bytes), (61, 3, whole.len() as u64));
    assert_eq!(encode(4), (whole.clone(), summary));
    assert_eq!(codec.decode(&whole, 1 << 10).unwrap().as_slice::<u32>().unwrap(), rows);
    assert!(matches!(codec_error(codec.decode(&whole, 700)), CodecError::TooLarge { .. }));
    // Blocks in another order.
    let first = 48 + 16 + u32::from_le_bytes(whole[52..56].try_into().unwrap()) as usize;
    let second = first + 16 + u32::from_le_bytes(whole[first + 4..first + 8].try_into().unwrap()) as usize;
    let swapped = [&whole[..48], &whole[first..second], &whole[48..first], &whole[second..]].concat();
    assert!(matches!(codec_error(codec.decode(&swapped, 1 << 10)), CodecError::Corrupt { .. }));
    let left_out = [&whole[..first], &whole[second..]].concat();
    assert!(matches!(codec_error(codec.decode(&left_out, 1 << 10)), CodecError::Corrupt { .. }));
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let codec = Codec::from_tables(example()).unwrap();
    let (rows, stream) = example_stream(&codec);
    assert_eq!(codec.decode(&stream, 1 << 20).unwrap().as_slice::<u32>().unwrap(), rows);
    for n in 0..stream.len() {
        let e = codec_error(codec.decode(&stream[..n], 1 << 20));
        assert!(matches!(e, CodecError::Truncated { .. }) || n == 0, "{n}: {e}");
        for bit in 0..8 {
            let mut flipped = stream.clone();
            flipped[n] ^= 1 << bit;
            assert!(codec.decode(&flipped, 1 << 20).is_err(), "byte {n}, bit {bit}");
        }
    }
    let longer = [&stream[..], &[0]].concat();
    assert!(codec_error(codec.decode(&longer, 1 << 20)).to_string().contains("more bytes follow it"));
}

#[test]
fn another_circuit_does_not_decode() {
    let (mut tables, codec) = (example(), Codec::from_tables(example()).unwrap());
    let (_, stream) = example_stream(&codec);
    tables.variables[0].rows.swap(0, 1);
    let other = Codec::from_tables(tables).unwrap();
    let e = codec_error(other.decode(&stream, 1 << 20));
    assert!(matches!(e, CodecError::OtherCircuit { .. }), "{e}");
}

#[test]
fn what_is_wrong_with_rows_is_said() {
    let codec = Codec::from_tables(example()).unwrap();
    let say = |elem: TensorView<'_>| codec_error(codec.encode(elem)).to_string();
    let text = say(TensorView::of(&[2, 3], &[0u8, 0, 0, 1, 3, 7]).unwrap());
    assert_eq!(text, "row 1, variable 1: the value 3 is outside of the circuit's 0..3");
    let text = say(TensorView::of(&[1, 3], &[0i64, 0, -1]).unwrap());
    assert_eq!(text, "row 0, variable 2: the value -1 is outside of the circuit's 0..300");
    let text = say(TensorView::of(&[1, 3], &[0.0f32; 3]).unwrap());
    assert_eq!(text, "the rows have the type f32, expected integers: only they come back as they were");
    let text = say(TensorView::of(&[3], &[0u8; 3]).unwrap());
    assert_eq!(text, "expected u8[rows, 3], found u8[3]");
}

#[test]
fn every_integer_type_comes_back() {
    let codec = Codec::from_tables(regions(&[2, 2], || 1.0)).unwrap();
    for elem in ElemType::all().filter(|e| !matches!(e.name(), "f64" | "f32" | "f16" | "bf16")) {
        let mut rows = Tensor::zeros(elem, &[5, 2]).unwrap();
        for i in [1, 4, 9] {
            rows.bytes_mut()[i * elem.size()] = 1;
        }
        let stream = codec.encode(rows.view()).unwrap();
        let again = codec.decode(&stream, 1 << 10).unwrap();
        assert_eq!((again.elem(), again.shape(), again.bytes()), (elem, rows.shape(), rows.bytes()));
    }
    let none = Tensor::zeros(ElemType::I32, &[0, 2]).unwrap();
    assert_eq!(codec.decode(&codec.encode(none.view()).unwrap(), 0).unwrap().shape(), [0, 2]);
}

/// The bytes of a stream on every machine: to change them is to change the format's version.
#[test]
fn the_bytes_are_these() {
    let codec = Codec::from_tables(example()).unwrap();
    let (_, stream) = example_stream(&codec);
    let hash = blake3::hash(&stream).to_hex();
    assert_eq!(&hash.as_str()[..16], "99ffe31e31395edb");
}
