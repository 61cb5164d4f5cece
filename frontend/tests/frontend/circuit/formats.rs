//! Small circuits in every format, against values worked by hand or by enumeration.

use super::{circuit, errors, file, loaded, rows};
use kiln_frontend::{Format, LoadOptions, Loaded, detect, load};
use kiln_ir::{
    Circuit, ElemType,
    circuit::{Distribution, Domain, Kind},
    eval::{self, Data, Tensor},
};
use std::{collections::HashMap, io::Write, path::Path};

fn probabilities(path: &Path) -> Vec<f64> {
    let c = circuit(path);
    rows(&c).iter().map(|row| c.log_likelihood(row).exp()).collect()
}

fn same(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}, expected {expected:?}");
}

/// Two variables of three and two values; the text is as Juice writes it.
const JPC: &str = "c comment\njpc 8\nC 0 0 1 -1.6094379124341003 -1.2039728043259361 -0.6931471805599453\nI 1 0 1 2\n\
                   L 2 1 2\nL 3 1 -2\nP 4 2 2 0 2\nB 5 1 2 1 -0.6931471805599453\nP 6 2 2 1 5\n\
                   S 7 2 2 4 -0.6931471805599453 6 -0.6931471805599453\n";

#[test]
fn juice_text_with_all_inputs() {
    // 0.5 [0.2, 0.3, 0.5] x [x = 1] + 0.5 [x = 2] x [0.5, 0.5]; node 3 is unreachable.
    let (_dir, path) = file("small.jpc", JPC);
    same(&probabilities(&path), &[0.0, 0.1, 0.0, 0.15, 0.25, 0.5]);
    let notes = loaded(&path).notes;
    assert!(notes.contains(&"left out: 1 node that the root does not reach".to_string()), "{notes:?}");
    assert_eq!(detect(&path).unwrap(), Format::Circuit);
}

#[test]
fn packed_text() {
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(JPC.as_bytes()).unwrap();
    let bytes = packed.finish().unwrap();
    let (_dir, path) = file("small.jpc.gz", &bytes);
    assert_eq!(detect(&path).unwrap(), Format::Circuit);
    assert_eq!(circuit(&path).name, "small");
    same(&probabilities(&path), &[0.0, 0.1, 0.0, 0.15, 0.25, 0.5]);
    let (_dir, path) = file("cut.jpc.gz", &bytes[..bytes.len() - 9]);
    let found = errors(&path);
    assert!(found[0].starts_with("cut.jpc.gz: line ") && found[0].contains("packed with gzip or not"), "{found:?}");
}

#[test]
fn psdd_in_both_dialects() {
    let one = "psdd 99\nL 7 0 1\nL 3 0 -1 \nT 5 1 2 -1.3862943611198906\nT 9 1 2 -0.6931471805599453\n\
               D 1 2 2 7 5 -0.2231435513142097 3 9 -1.6094379124341003\n";
    let two = one.replace("2 -1.3862943611198906", "2 -0.2876820724517809 -1.3862943611198906");
    let expected = [0.1, 0.1, 0.6, 0.2];
    for text in [one, &two] {
        let (_dir, path) = file("small.psdd", text);
        same(&probabilities(&path), &expected);
        let c = circuit(&path);
        assert!(c.deterministic && c.vtree.is_none());
        assert_eq!(c.place(c.root()), "node 1, line 6");
    }
}

#[test]
fn a_vtree_of_the_same_name_is_taken() {
    let (dir, path) = file("small.psdd", "psdd 1\nL 0 0 1\nL 1 1 2\nD 2 2 1 0 1 0.0\n");
    let vtree = |text: &str| std::fs::write(dir.path().join("small.vtree"), text).unwrap();
    vtree("c\nvtree 3\nL 0 1\nL 1 2\nI 2 0 1\n");
    let c = circuit(&path);
    assert_eq!(c.vtree_nodes(), Ok(vec![0, 1, 2, 2]));
    let facts = &loaded(&path).module.metadata;
    assert_eq!(facts["circuit.structured"], "yes");
    vtree("vtree 1\nL 0 1\n");
    assert_eq!(
        errors(&path),
        ["small.psdd: node 1, line 3: expected products that split their variables as the vtree does, found column 1 \
          has no leaf in the vtree\n  help: give the vtree of this circuit as small.vtree, or take that file away"]
    );
    // A name that only begins alike may belong to another circuit.
    std::fs::rename(dir.path().join("small.vtree"), dir.path().join("sm.vtree")).unwrap();
    let other = dir.path().join("sm-2.psdd");
    std::fs::copy(&path, &other).unwrap();
    let loaded = loaded(&other);
    assert!(loaded.notes.contains(&"left alone: sm.vtree, which the circuit does not follow".to_string()));
}

#[test]
fn spn_text() {
    let text = "(3 2)\nv 0 2\nv 0 1\nv 1 0\nv 1 1\n+ 2 -0.6931471805599453 3 -0.6931471805599453\n* 0 4\n* 1 3\n\
                + 5 -1.3862943611198906 6 -0.2876820724517809\nEOF\n";
    let (_dir, path) = file("small.spn", text);
    same(&probabilities(&path), &[0.0, 0.0, 0.0, 0.75, 0.125, 0.125]);
}

#[test]
fn networks_are_compiled() {
    let bayes = "BAYES\n2\n2 3\n2\n1 0\n2 0 1\n2 0.4 0.6\n6\n0.5 0.5 0 0.1 0.2 0.7\n";
    let (_dir, path) = file("net.uai", bayes);
    let expected = [0.2, 0.2, 0.0, 0.06, 0.12, 0.42];
    same(&probabilities(&path), &expected);
    assert!(circuit(&path).deterministic);
    // A factor over the second and the first variable; normalised.
    let markov = "MARKOV 3 2 3 2 2 2 1 0 1 0 6 1.0 1.0 0 0.3 0.6 2.1 2 0.8 0.8";
    let (_dir, path) = file("net.uai", markov);
    let p = probabilities(&path);
    let total = 5.0;
    let joint = [1.0, 0.0, 0.6, 1.0, 0.3, 2.1];
    let halves: Vec<f64> = joint.iter().flat_map(|p| [p / total / 2.0; 2]).collect();
    same(&p, &halves);
    let notes = loaded(&path).notes;
    assert!(notes.iter().any(|n| n.starts_with("a Markov network, normalised")), "{notes:?}");
}

#[test]
fn networks_say_whether_they_are_normalised() {
    let about = |text: &str| {
        let (_dir, path) = file("net.uai", text);
        let Loaded { module, notes, .. } = loaded(&path);
        let told = notes.into_iter().filter(|n| n.contains("normalised") || n.contains("adds up")).collect::<Vec<_>>();
        (module.metadata["circuit.normalised"].clone(), told.join("; "))
    };
    // Two children of one cause: the sum for the second's entries is not normalised by itself.
    let yes = about("BAYES 3 2 2 2 3 1 0 2 0 1 2 0 2\n2 0.4 0.6 4 0.1 0.9 0.8 0.2 4 0.3 0.7 0.333 0.667");
    assert_eq!(yes, ("yes".into(), "it is smooth, decomposable, normalised as a whole, deterministic".into()));
    let rounded = about("BAYES 2 3 2 2 1 0 2 1 0\n3 0.333 0.333 0.333 6 0.5 0.3 0.2 0.1 0.1 0.8");
    assert!(!rounded.1.contains("adds up"), "{rounded:?}");
    let markov = about("MARKOV 2 2 2 2 2 0 1 1 0\n4 1 2 3 4 2 5 6");
    assert_eq!(markov.0, "yes");
    assert!(markov.1.starts_with("a Markov network, normalised") && !markov.1.contains("not normalised"), "{markov:?}");
    let heavy = about("BAYES 1 2 1 1 0 2 0.9 0.9");
    assert_eq!(heavy.0, "no");
    assert!(heavy.1.contains("row 0 of factor 0, both from 0, adds up to 1.8, not 1; "), "{heavy:?}");
    assert!(heavy.1.contains("not normalised: the logarithm of the sum over all rows is 0.5877"), "{heavy:?}");
    let second = about("BAYES 2 2 2 2 1 0 2 0 1\n2 0.4 0.6 4 0.1 0.9 0.8 0.1");
    assert!(second.1.contains("row 1 of factor 1, both from 0, adds up to 0.9"), "{second:?}");
    assert_eq!(second.0, "no");
    // Rows that add up, but twice for one variable.
    let twice = about("BAYES 1 2 2 1 0 1 0\n2 0.4 0.6 2 0.4 0.6");
    assert!(twice.1.contains("not normalised: the logarithm of the sum over all rows is -0.65"), "{twice:?}");
}

#[test]
fn what_the_root_of_a_formula_does_not_reach_is_noted() {
    let left = |text: &str| {
        let (_dir, path) = file("f.nnf", text);
        loaded(&path).notes.into_iter().filter(|n| n.starts_with("left out")).collect::<Vec<_>>()
    };
    assert_eq!(left(D4), [] as [String; 0]);
    assert_eq!(left("o 1 0\no 3 0\nt 2 0\n1 2 1 0\n3 2 2 0\n"), ["left out: 1 node that the root does not reach"]);
}

/// (x1 and x2) or (not x1 and x3), with a fourth variable that occurs nowhere.
const NNF: &str = "nnf 7 6 4\nL 1\nL 2\nA 2 0 1\nL -1\nL 3\nA 2 3 4\nO 1 2 2 5\n";
const D4: &str = "o 1 0\nt 2 0\n1 2 1 2 0\n1 2 -1 3 0\n";
const SDD: &str = "sdd 6\nL 0 0 1\nL 1 1 2\nL 2 0 -1\nL 3 3 3\nF 5\nD 4 1 3 0 1 2 3 0 5\n";

fn models(variables: usize, weight: impl Fn(usize, bool) -> f64) -> Vec<f64> {
    (0..1usize << variables)
        .map(|row| {
            let x = |v: usize| row >> (variables - 1 - v) & 1 == 1;
            let is_model = (x(0) && x(1)) || (!x(0) && x(2));
            if is_model { (0..variables).map(|v| weight(v, x(v))).product() } else { 0.0 }
        })
        .collect()
}

#[test]
fn formulas_count_models() {
    for (name, text, variables) in [("f.nnf", NNF, 4), ("f.nnf", D4, 3), ("f.sdd", SDD, 3)] {
        let (dir, path) = file(name, text);
        let expected = models(variables, |_, _| 1.0);
        same(&probabilities(&path), &expected);
        let c = circuit(&path);
        let missing = vec![f64::NAN; variables];
        assert!((c.log_likelihood(&missing).exp() - expected.iter().sum::<f64>()).abs() < 1e-12);
        assert!(c.deterministic, "{name}");
        // Weights in a file beside, and as comments.
        let weight = |v: usize, x: bool| match (v, x) {
            (0, true) => 0.25,
            (2, false) => 3.0,
            (1, true) => 0.0,
            _ => 1.0,
        };
        std::fs::write(dir.path().join("f.weights"), "1 0.25\nc p weight -3 3 0\np\n".replace("p\n", "2 0\n")).unwrap();
        same(&probabilities(&path), &models(variables, weight));
        std::fs::remove_file(dir.path().join("f.weights")).unwrap();
        std::fs::write(&path, format!("c p weight 1 0.25 0\nc p weight -3 3.0 0\n{text}c p weight 2 0 0\n")).unwrap();
        same(&probabilities(&path), &models(variables, weight));
    }
}

#[test]
fn constants_in_formulas() {
    for (text, expected) in [
        ("nnf 1 0 2\nA 0\n", [1.0; 4]),
        ("nnf 3 2 2\nA 0\nL -2\nA 2 0 1\n", [1.0, 0.0, 1.0, 0.0]),
        ("nnf 3 2 2\nO 0 0\nL 2\nO 0 2 0 1\n", [0.0, 1.0, 0.0, 1.0]),
    ] {
        let (_dir, path) = file("f.nnf", text);
        same(&probabilities(&path), &expected);
    }
    let (_dir, path) = file("f.nnf", "nnf 1 0 2\nO 0 0\n");
    assert_eq!(
        errors(&path),
        ["f.nnf: line 2: expected a formula with models, found one without models, whose count is 0"]
    );
    let (_dir, path) = file("f.nnf", "nnf 1 0 0\nA 0\n");
    assert_eq!(errors(&path), ["f.nnf: line 2: expected a formula with models, found one without variables"]);
}

/// A Cap'n Proto message, word by word.
pub(super) struct Words(Vec<u64>);

impl Words {
    /// A pointer at `from` to a struct at `to`.
    fn structure(&mut self, from: usize, to: usize, data: u64, pointers: u64) {
        self.0[from] = ((to - from - 1) as u64) << 2 | data << 32 | pointers << 48;
    }

    /// A pointer at `from` to a list at the end of the message.
    fn list(&mut self, from: usize, code: u64, count: usize, words: &[u64]) {
        let to = self.0.len();
        self.0[from] = ((to - from - 1) as u64) << 2 | 1 | code << 32 | (count as u64) << 35;
        self.0.extend(words);
    }

    fn doubles(&mut self, from: usize, x: &[f64]) {
        let words: Vec<u64> = x.iter().map(|x| x.to_bits()).collect();
        self.list(from, 5, x.len(), &words);
    }

    fn ints(&mut self, from: usize, x: &[i32]) {
        let half = |x: &i32| u64::from(*x as u32);
        let words: Vec<u64> = x.chunks(2).map(|c| half(&c[0]) | c.get(1).map_or(0, half) << 32).collect();
        self.list(from, 4, x.len(), &words);
    }

    fn bytes(&self) -> Vec<u8> {
        let table = [0u32.to_le_bytes(), (self.0.len() as u32).to_le_bytes()].concat();
        table.into_iter().chain(self.0.iter().flat_map(|w| w.to_le_bytes())).collect()
    }
}

/// 0.25 N(x0; 1, 2) [0.5, 0.25, 0.25](x1) + 0.75 H(x0) [0, 0.5, 0.5](x1), as SPNC writes it: sum 5 over products 3 and 4.
pub(super) fn message(children_of_3: &[i32]) -> Vec<u8> {
    // The root pointer, the header and the model, whose root is 5 and which has 2 variables.
    let mut m = Words(vec![0; 8]);
    let model = 3;
    m.structure(0, 1, 1, 1);
    m.structure(2, model, 1, 4);
    m.0[model] = 5 | 2 << 32;
    // Seven nodes of one data word and one pointer.
    let list = m.0.len();
    let mut words = vec![7 << 2 | 1 << 32 | 1 << 48];
    words.resize(15, 0);
    m.list(model + 4, 7, 14, &words);
    let node = |n: usize| list + 1 + 2 * n;
    let body = |m: &mut Words, n: usize, id: u64, kind: u64, data: &[u64], pointers: u64| {
        m.0[node(n)] = id | kind << 48;
        let at = m.0.len();
        m.structure(node(n) + 1, at, data.len() as u64, pointers);
        m.0.extend(data);
        m.0.resize(at + data.len() + pointers as usize, 0);
        at + data.len()
    };
    let at = body(&mut m, 0, 5, 1, &[], 2);
    m.ints(at, &[3, 4]);
    m.doubles(at + 1, &[0.25, 0.75]);
    let at = body(&mut m, 1, 3, 0, &[], 1);
    m.ints(at, children_of_3);
    let at = body(&mut m, 2, 4, 0, &[], 1);
    m.ints(at, &[2, 6]);
    body(&mut m, 3, 0, 3, &[1f64.to_bits(), 2f64.to_bits(), 0], 0);
    let at = body(&mut m, 4, 1, 4, &[1], 1);
    m.doubles(at, &[0.5, 0.25, 0.25]);
    // Type and meta type real, variable 0 in the upper half.
    let at = body(&mut m, 5, 2, 2, &[0], 3);
    m.ints(at, &[0, 1, 3]);
    m.doubles(at + 1, &[0.5, 0.25]);
    let at = body(&mut m, 6, 6, 2, &[2 << 16 | 1 << 32], 3);
    m.ints(at, &[1, 3]);
    m.doubles(at + 1, &[0.5]);
    m.bytes()
}

#[test]
fn spnc_messages() {
    let (_dir, path) = file("small.bin", message(&[0, 1]));
    assert_eq!(detect(&path).unwrap(), Format::Circuit);
    let c = circuit(&path);
    assert_eq!(c.variables, [Domain::Real, Domain::Discrete(3)]);
    let p = |x: f64, y: f64| c.log_likelihood(&[x, y]).exp();
    let gauss = |x: f64| (-0.5 * ((x - 1.0) / 2.0f64).powi(2)).exp() / (2.0 * (2.0 * std::f64::consts::PI).sqrt());
    same(
        &[p(0.5, 0.0), p(0.5, 1.0), p(2.5, 2.0), p(4.0, 2.0), p(f64::NAN, 1.0)],
        &[
            0.25 * gauss(0.5) * 0.5,
            0.25 * gauss(0.5) * 0.25 + 0.75 * 0.5 * 0.5,
            0.25 * gauss(2.5) * 0.25 + 0.75 * 0.25 * 0.5,
            0.25 * gauss(4.0) * 0.25,
            0.25 * 0.25 + 0.75 * 0.5,
        ],
    );
    let entries: Vec<String> = loaded(&path).module.entries.iter().map(|e| e.name.clone()).collect();
    assert_eq!(entries, ["log_likelihood", "mpe", "sample", "conditional", "expectation"]);
}

/// Every kind of input is one of some circuit here.
#[test]
fn inputs_keep_their_kind() {
    let (_dir, path) = file("small.jpc", JPC);
    let kinds = |c: &Circuit| -> Vec<&'static str> {
        c.nodes()
            .filter_map(|n| match c.kind(n) {
                Kind::Input { dist, .. } => Some(c.distribution(dist).name()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(kinds(&circuit(&path)), ["categorical", "indicator", "indicator", "binomial"]);
    let (_dir, path) = file("small.bin", message(&[0, 1]));
    let c = circuit(&path);
    assert_eq!(kinds(&c), ["gaussian", "categorical", "histogram", "histogram"]);
    assert!(c.distributions().contains(&Distribution::Gaussian { mean: 1.0, std: 2.0 }));
}

#[test]
fn a_directory_with_one_circuit() {
    let (dir, _) = file("small.jpc", JPC);
    assert_eq!(detect(dir.path()).unwrap(), Format::Circuit);
    assert_eq!(circuit(dir.path()).name, "small");
    std::fs::write(dir.path().join("other.jpc"), JPC).unwrap();
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": \"hidden_chow_liu_tree\"}").unwrap();
    assert_eq!(detect(dir.path()).unwrap(), Format::Circuit);
    let e = load(dir.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(
        e.contains("expected a directory with one circuit, found other.jpc, small.jpc\n  help: give one of them"),
        "{e}"
    );
}

#[test]
fn entries_answer_as_the_circuit_does() {
    let (_dir, path) = file("small.jpc", JPC);
    for elem in [None, Some(ElemType::F32)] {
        let options = LoadOptions { elem, ..LoadOptions::default() };
        let m = load(&path, &options).unwrap().module;
        let elem = elem.unwrap_or(ElemType::F64);
        let run = |entry: &str, inputs: &[(&str, Tensor)]| {
            let inputs: HashMap<String, Tensor> = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
            let out = eval::run(&m, entry, &inputs, &eval::no_weights).unwrap_or_else(|e| panic!("{entry}: {e}"));
            out.into_iter().map(|(name, t)| (name, t.elem, t.data)).collect::<Vec<_>>()
        };
        let nan = f64::NAN;
        let x = |cells: Vec<f64>| Tensor::floats(elem, [1, 2], cells);
        let float = |(name, e, data): &(String, ElemType, Data)| match data {
            Data::F(v) => {
                assert_eq!(*e, elem);
                (name.clone(), v.clone())
            }
            Data::I(_) => panic!("{name}"),
        };
        let near = |found: &(String, Vec<f64>), name: &str, expected: &[f64]| {
            assert_eq!(found.0, name);
            same(&found.1, expected);
        };
        let ll = run("log_likelihood", &[("x", x(vec![2.0, nan]))]);
        near(&float(&ll[0]), "log_likelihood", &[0.75f64.ln()]);
        let p = run("marginals", &[("x", x(vec![2.0, nan]))]);
        near(&float(&p[0]), "marginals", &[0.1, 0.15, 0.75, 1.0 / 3.0, 2.0 / 3.0, 0.0]);
        let best = run("mpe", &[("x", x(vec![nan, 1.0]))]);
        near(&float(&best[0]), "states", &[2.0, 1.0]);
        let conditional = run("conditional", &[("query", x(vec![nan, 1.0])), ("evidence", x(vec![2.0, nan]))]);
        near(&float(&conditional[0]), "log_probability", &[(2.0f64 / 3.0).ln()]);
        for (query, evidence, expected) in [
            ([2.0, nan], [2.0, nan], 0.0),
            ([1.0, nan], [2.0, nan], f64::NEG_INFINITY),
            ([2.0, 1.0], [2.0, 0.0], f64::NEG_INFINITY),
            ([2.0, nan], [9.0, nan], nan),
        ] {
            let both = run("conditional", &[("query", x(query.to_vec())), ("evidence", x(evidence.to_vec()))]);
            let found = float(&both[0]).1[0];
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{query:?} {evidence:?}: {found}");
        }
        let mean = run("expectation", &[("x", x(vec![2.0, nan]))]);
        near(&float(&mean[0]), "expectation", &[2.0, 2.0 / 3.0]);
        let seed = Tensor::ints(ElemType::I64, [1], vec![7]);
        let drawn = run("sample", &[("x", x(vec![2.0, nan])), ("seed", seed)]);
        near(&float(&drawn[0]), "states", &circuit(&path).sample(&[2.0, nan], 7));
    }
    let wrong = LoadOptions { elem: Some(ElemType::F16), ..LoadOptions::default() };
    let e = load(&path, &wrong).unwrap_err().to_string();
    assert!(e.ends_with("--weights: expected f32 or f64, in which circuits compute, found f16"), "{e}");
}

#[test]
fn a_report_says_what_the_circuit_is() {
    let (_dir, path) = file("small.jpc", JPC);
    assert_eq!(detect(&path), Ok(Format::Circuit));
    let found = loaded(&path);
    let all = found.notes.join("\n");
    assert_eq!(
        all,
        "left out: 1 node that the root does not reach\nno vtree beside the circuit\n2 variables, 4 inputs, 2 products, \
         1 sums, 6 edges, depth 2\nit is smooth, decomposable, normalised\nnot known to be deterministic, so that `mpe` \
         gives a good row, not always the best: node 7, line 10: (node 4, line 7) and (node 6, line 9) may be positive at \
         once"
    );
    let facts = found.module.metadata;
    let fact = |key: &str| facts[&format!("circuit.{key}")].as_str();
    assert_eq!((fact("smooth"), fact("structured"), fact("deterministic")), ("yes", "unknown", "unknown"));
}
