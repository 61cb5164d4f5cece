//! Laws of sizes, and modules made at random: printing and parsing are inverse, and what type inference lets through
//! passes the verifier and comes to an end in the interpreter.

mod support;

use kiln_ir::{
    Dim, ElemType, Module, Op, Region, Symbol, Type, Value,
    attr::{Attr, AttrKind, Attrs},
    ops::Arity,
    scalar::Literal,
};
use proptest::prelude::*;
use support::{Random, evaluate, survives};

/// A size as it is written down, before any normal form.
#[derive(Clone, Debug)]
enum Size {
    Const(i64),
    Symbol(usize),
    Binary(char, Box<Size>, Box<Size>),
}

const SYMBOLS: [&str; 3] = ["B", "S", "T_2"];

fn symbol(n: usize) -> Symbol {
    Symbol::new(SYMBOLS[n]).unwrap()
}

impl Size {
    fn dim(&self) -> Dim {
        match self {
            Size::Const(c) => (*c).into(),
            Size::Symbol(n) => Dim::symbol(symbol(*n)),
            Size::Binary(op, a, b) => {
                let (a, b) = (a.dim(), b.dim());
                match op {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    '/' => a.floor_div(&b),
                    '^' => a.ceil_div(&b),
                    '<' => a.min_with(&b),
                    _ => a.max_with(&b),
                }
            }
        }
    }

    /// The value by school arithmetic.
    fn value(&self, at: &[i64; 3]) -> Option<i128> {
        Some(match self {
            Size::Const(c) => i128::from(*c),
            Size::Symbol(n) => i128::from(at[*n]),
            Size::Binary(op, a, b) => {
                let (a, b) = (a.value(at)?, b.value(at)?);
                match op {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    '/' if b == 0 => return None,
                    '/' => (a - a.rem_euclid(b)) / b - i128::from(b < 0 && a.rem_euclid(b) != 0),
                    // Rounding up is defined for what sizes are divided by.
                    '^' if b <= 0 => return None,
                    '^' => -(-a).div_euclid(b),
                    '<' => a.min(b),
                    _ => a.max(b),
                }
            }
        })
    }
}

fn size() -> impl Strategy<Value = Size> {
    let leaf = prop_oneof![(-20i64..40).prop_map(Size::Const), (0..3usize).prop_map(Size::Symbol)];
    leaf.prop_recursive(4, 12, 2, |inner| {
        let op = prop::sample::select(vec!['+', '-', '*', '/', '^', '<', '>']);
        (op, inner.clone(), inner).prop_map(|(op, a, b)| Size::Binary(op, a.into(), b.into()))
    })
}

fn facts() -> Vec<kiln_ir::SymbolFacts> {
    let fact = |n, min, max, multiple_of| kiln_ir::SymbolFacts { symbol: symbol(n), min, max, multiple_of };
    vec![fact(0, 0, 7, 1), fact(1, 1, 512, 1), fact(2, 8, 64, 8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_normal_form_has_the_same_value(size in size(), b in 0i64..8, s in 1i64..513, t in 1i64..9) {
        let at = [b, s, t * 8];
        let Some(expected) = size.value(&at) else { return Ok(()) };
        let dim = size.dim();
        let bind = |sym: Symbol| SYMBOLS.iter().position(|n| *n == sym.name()).map(|n| at[n]);
        prop_assert_eq!(dim.eval(&bind).map(i128::from), Some(expected), "{}", dim);
        let (low, high) = dim.range(&facts());
        prop_assert!(i128::from(low) <= expected && expected <= i128::from(high), "{dim} in {low}..{high}");
        let divisor = i128::from(dim.divisor(&facts()));
        prop_assert!(if divisor == 0 { expected == 0 } else { expected % divisor == 0 }, "{dim} by {divisor}");
    }

    #[test]
    fn a_size_reads_back_from_its_text(size in size()) {
        let dim = size.dim();
        prop_assume!(dim.weight() <= 200);
        let text = format!("module @m stage=imported {{ entry @f(%x: f32[{dim}]) -> () {{ return }} }}");
        match kiln_ir::parse(&text) {
            Ok(m) => prop_assert_eq!(&m.ty(m.regions[m.entries[0].body].args[0]).dims[0], &dim),
            Err(e) => prop_assert!(e.message == "division by zero", "{}\n{}", e, text),
        }
    }

    #[test]
    fn sizes_form_a_ring(a in size(), b in size(), c in size()) {
        let (a, b, c) = (a.dim(), b.dim(), c.dim());
        prop_assert_eq!(a.clone() + b.clone(), b.clone() + a.clone());
        prop_assert_eq!(a.clone() * b.clone(), b.clone() * a.clone());
        prop_assert_eq!((a.clone() + b.clone()) - b.clone(), a.clone());
        prop_assert_eq!((a.clone() + b.clone()) * c.clone(), a.clone() * c.clone() + b.clone() * c.clone());
        prop_assert_eq!(Dim::sum([&a, &b, &c]), a.clone() + b.clone() + c.clone());
        if let Some(q) = (a.clone() * b.clone()).exact_div(&b) {
            prop_assert_eq!(q, a);
        }
    }

    #[test]
    fn substitution_and_evaluation_commute(size in size(), with in size(), b in 0i64..8, s in 1i64..50) {
        let at = [b, s, 8];
        let bind = |sym: Symbol| SYMBOLS.iter().position(|n| *n == sym.name()).map(|n| at[n]);
        let Some(value) = with.value(&at).and_then(|v| i64::try_from(v).ok()) else { return Ok(()) };
        let Some(expected) = size.value(&[b, value, 8]) else { return Ok(()) };
        let replaced = size.dim().substitute(&|sym| (sym == symbol(1)).then(|| with.dim()));
        if let (Ok(expected), Some(found)) = (i64::try_from(expected), replaced.eval(&bind)) {
            prop_assert_eq!(found, expected, "{}", replaced);
        }
    }

    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_tokens_are_refused_or_read(tokens in prop::collection::vec(token(), 0..60)) {
        survives(&format!("module @m stage=imported {{ entry @f(%x: f32[2]) -> () {{ {} }} }}", tokens.join(" ")));
    }
}

fn token() -> impl Strategy<Value = String> {
    let words: Vec<String> =
        ["%x", "%0", "%1", "=", ":", ",", "{", "}", "(", ")", "[", "]", "->", "-", "return", "yield"]
            .into_iter()
            .chain([
                "f32[2]",
                "i64[]",
                "2",
                "0.5",
                "axis",
                "keep",
                "true",
                "body",
                "then",
                "else",
                "// note\n",
                "%\"a b\"",
            ])
            .map(String::from)
            .chain(Op::ALL.iter().map(|op| op.name().to_string()))
            .collect();
    prop::sample::select(words)
}

/// Names as files hold them.
const NAMES: &[&str] = &[
    "x",
    "layer.0.weight",
    "a/b:0",
    "with space",
    "",
    "12",
    "012",
    "é\u{1f980}",
    "q\"uo\\te",
    "a..b",
    "new\nline",
    "%",
    "0x",
];

fn elem(r: &mut Random) -> ElemType {
    *r.pick(&[
        ElemType::F32,
        ElemType::F32,
        ElemType::F64,
        ElemType::BF16,
        ElemType::I64,
        ElemType::I8,
        ElemType::U64,
        ElemType::I1,
    ])
}

fn dim(r: &mut Random, symbols: &[Dim]) -> Dim {
    match r.below(4) {
        0 => r.pick(symbols).clone(),
        _ => (r.below(4) as i64).into(),
    }
}

fn number(r: &mut Random) -> f64 {
    *r.pick(&[
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.1,
        1e-12,
        1e300,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        16777217.0,
    ])
}

fn literal(r: &mut Random, elem: ElemType) -> Literal {
    Literal::of(elem, number(r))
}

fn attr(r: &mut Random, kind: AttrKind, symbols: &[Dim]) -> Attr {
    let int = |r: &mut Random| *r.pick(&[0, 1, 2, -1, 3, i64::MAX, i64::MIN]);
    match kind {
        AttrKind::Int => Attr::Int(int(r)),
        AttrKind::Bool => Attr::Bool(r.below(2) == 0),
        AttrKind::Float => number(r).into(),
        AttrKind::Ints => Attr::Ints((0..r.below(4)).map(|_| *r.pick(&[0, 1, 2, -1])).collect()),
        AttrKind::Dim => Attr::Dim(dim(r, symbols)),
        AttrKind::Dims => Attr::Dims((0..r.below(4)).map(|_| dim(r, symbols)).collect()),
        AttrKind::Elem => Attr::Elem(elem(r)),
        AttrKind::Word(words) => Attr::Word(words[r.below(words.len())]),
        AttrKind::Name => Attr::Name(r.pick(NAMES).to_string()),
    }
}

/// Appends a node of a random op on random operands if its types can be inferred.
fn node(r: &mut Random, m: &mut Module, body: Region, pool: &mut Vec<Value>, symbols: &[Dim], depth: usize) {
    let op = *r.pick(Op::ALL);
    let def = op.def();
    // A state changes once, in an entry's own body, and is not read after that.
    let changes = |op: Op| matches!(op, Op::StateAppend | Op::StateReset);
    let changed = m.nodes.values().any(|n| changes(n.op));
    if (changes(op) && depth > 0) || ((changes(op) || op == Op::StateRead) && changed) {
        return;
    }
    let mut operands: Vec<Option<Value>> = vec![];
    for o in def.operands {
        match o.arity {
            Arity::One => operands.push(Some(*r.pick(pool))),
            Arity::Optional => operands.push((r.below(2) == 0).then(|| *r.pick(pool))),
            Arity::Many => operands.extend((0..r.below(3)).map(|_| Some(*r.pick(pool)))),
        }
    }
    let mut attrs = Attrs::default();
    for a in def.attrs {
        if a.required || r.below(2) == 0 {
            attrs.set(a.name, attr(r, a.kind, symbols));
        }
    }
    let mut regions = vec![];
    if depth < 3 {
        let carried: Vec<Type> = operands.iter().flatten().map(|v| m.ty(*v).clone()).collect();
        for _ in def.regions {
            let args = match op {
                Op::If => vec![],
                Op::For => std::iter::once(Type::scalar(ElemType::I64)).chain(carried[1..].iter().cloned()).collect(),
                _ => carried.clone(),
            };
            let inner = m.add_region(args.into_iter().map(|t| (None, t)));
            let mut inside: Vec<Value> = m.regions[inner].args.clone();
            if op != Op::Fusion {
                inside.extend(pool.iter());
            }
            for _ in 0..if inside.is_empty() { 0 } else { r.below(4) } {
                node(r, m, inner, &mut inside, symbols, depth + 1);
            }
            // Yield what arrived where the op asks for that, else whatever is there.
            let results = match op {
                Op::For => m.regions[inner].args[1..].to_vec(),
                Op::While if regions.is_empty() => vec![m.scalar(ElemType::I1, Literal::Int(0))],
                Op::While => m.regions[inner].args.clone(),
                Op::If => pool[..1].to_vec(),
                _ => inside.last().copied().into_iter().collect(),
            };
            m.regions[inner].results = results;
            regions.push(inner);
        }
    }
    let source = (r.below(3) == 0).then(|| r.pick(NAMES).to_string());
    if let Ok(node) = m.create_node(op, operands, attrs, regions, source) {
        m.regions[body].nodes.push(node);
        pool.extend(&m.nodes[node].results);
    }
}

fn module(seed: u64) -> Module {
    let r = &mut Random(seed);
    let mut m = Module::new(*r.pick(NAMES));
    let symbols: Vec<Dim> = (0..3).map(|n| m.add_symbol(symbol(n), n as i64, 64, 1)).collect();
    m.metadata.insert(r.pick(NAMES).to_string(), r.pick(NAMES).to_string());
    let file = m.files.push(r.pick(NAMES).to_string());
    let constant = |r: &mut Random| Type::new(elem(r), (0..r.below(3)).map(|_| r.below(4) as i64).collect::<Vec<_>>());
    let ty = constant(r);
    let mut pool = vec![m.add_param(format!("w {}", r.pick(NAMES)), ty, file, *r.pick(NAMES))];
    let ty = constant(r);
    let n = ty.const_dims().map_or(1, |d| d.iter().product::<i64>());
    let data = (0..n).map(|_| literal(r, ty.elem)).collect();
    pool.push(m.add_const(Some(format!("c {}", r.pick(NAMES))), ty, data));
    let e = elem(r);
    let l = literal(r, e);
    pool.push(m.scalar(e, l));
    let state = Type::new(elem(r), [dim(r, &symbols), 2.into()]);
    let grows = r.pick(&[None, Some(0), Some(1)]);
    let name = r.pick(NAMES).to_string();
    m.states.push(kiln_ir::StateData { name, ty: state, grows: *grows, capacity: 4, lifetime: "call" });
    for (n, name) in [("f", *r.pick(NAMES)), ("g", "entry two")].iter().enumerate() {
        let inputs: Vec<(String, Type)> = (0..1 + r.below(3))
            .map(|i| {
                let rank = r.below(4);
                (
                    format!("{} {i}{n}", r.pick(NAMES)),
                    Type::new(elem(r), (0..rank).map(|_| dim(r, &symbols)).collect::<Vec<_>>()),
                )
            })
            .collect();
        let body = m.add_entry(name.1, inputs);
        let mut here = pool.clone();
        here.extend(&m.regions[body].args);
        for _ in 0..r.below(12) {
            node(r, &mut m, body, &mut here, &symbols, 0);
        }
        let outputs: Vec<(String, Value)> =
            (0..r.below(3)).map(|i| (format!("{}{i}", r.pick(NAMES)), *r.pick(&here))).collect();
        m.set_outputs(body, outputs);
    }
    m
}

#[test]
fn random_modules_print_parse_verify_and_run() {
    let mut used = std::collections::HashSet::new();
    for seed in 0..40_000 {
        let m = module(seed);
        let text = m.to_string();
        let again = kiln_ir::parse(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(text, again.to_string(), "seed {seed}");
        kiln_ir::verify(&m).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        used.extend(m.live_nodes().iter().map(|n| m.nodes[*n].op));
        evaluate(&m);
    }
    // Few random operands fit these.
    let rare = [
        Op::Attention,
        Op::DecodeAttention,
        Op::Conv,
        Op::Linear,
        Op::Scan,
        Op::LstmCell,
        Op::GruCell,
        Op::CircuitQuery,
    ];
    let missing: Vec<&Op> = Op::ALL.iter().filter(|op| !used.contains(op) && !rare.contains(op)).collect();
    assert!(missing.is_empty(), "never made: {missing:?}");
}
