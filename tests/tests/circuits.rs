//! Circuits the whole way: models of other tools, compiled, against values that other programs computed and against
//! enumeration.
//!
//! The models are not part of the tree: they lie in `../shared`, and without them the tests say that they skip.

#[allow(dead_code, reason = "its `main` is the example's own")]
#[path = "../../examples/complete_digit.rs"]
mod complete_digit;

use flate2::read::MultiGzDecoder;
use kiln_frontend::LoadOptions;
use kiln_ir::ElemType;
use kiln_ir::eval::{self, Data};
use kiln_runtime::{Artifact, Session, SessionOptions, Tensor};
use kiln_tests::support::{root, shared, stored};
use serde_json::Value;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Numbers, a row a line, packed or not.
fn table(path: &Path) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    let row = |line: &str| line.split([',', ';']).map(|x| x.trim().parse().unwrap()).collect();
    text.lines().filter(|l| !l.trim().is_empty()).map(row).collect()
}

type Rows = Vec<Vec<f64>>;

/// A compiled circuit.
struct Native {
    artifact: Artifact,
    variables: usize,
    elem: ElemType,
}

impl Native {
    fn compile(model: &Path, elem: ElemType) -> Native {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model.kiln");
        let load = LoadOptions { elem: Some(elem), ..LoadOptions::default() };
        let options = kiln::Options { load, targets: vec!["cpu:native".into()], ..Default::default() };
        kiln::compile(model, &options, &out).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        let artifact = Artifact::open(&out).unwrap();
        let variables = artifact.manifest().metadata["circuit.variables"].parse().unwrap();
        Native { artifact, variables, elem }
    }

    fn f64(model: &Path) -> Native {
        Native::compile(model, ElemType::F64)
    }

    fn fact(&self, name: &str) -> &str {
        &self.artifact.manifest().metadata[&format!("circuit.{name}")]
    }

    fn tensor(&self, rows: &[Vec<f64>]) -> Tensor {
        let (shape, cells) = ([rows.len(), self.variables], rows.concat());
        let tensor = match self.elem {
            ElemType::F32 => Tensor::of(&shape, &cells.iter().map(|x| *x as f32).collect::<Vec<_>>()),
            _ => Tensor::of(&shape, &cells),
        };
        tensor.unwrap()
    }

    /// The outputs of an entry, in order.
    fn ask(&self, entry: &str, inputs: &[(&str, Tensor)]) -> Vec<Vec<f64>> {
        let options = SessionOptions { threads: Some(2), ..Default::default() };
        let mut session = Session::new(&self.artifact, options).unwrap();
        let views: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.view())).collect();
        let outputs = session.entry(entry).unwrap().run(&views).unwrap_or_else(|e| panic!("{entry}: {e}"));
        let floats = |t: &Tensor| match t.as_slice::<f32>() {
            Some(t) => t.iter().map(|x| f64::from(*x)).collect(),
            None => t.as_slice::<f64>().unwrap().to_vec(),
        };
        outputs.iter().map(|(_, t)| floats(t)).collect()
    }

    fn log_likelihood(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        self.ask("log_likelihood", &[("x", self.tensor(rows))]).remove(0)
    }

    /// The rows completed, and their values.
    fn mpe(&self, rows: &[Vec<f64>]) -> (Rows, Vec<f64>) {
        let found = self.ask("mpe", &[("x", self.tensor(rows))]);
        (found[0].chunks(self.variables).map(<[f64]>::to_vec).collect(), found[1].clone())
    }

    /// For each row and variable, the probability of each value.
    fn marginals(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        self.ask("marginals", &[("x", self.tensor(rows))]).remove(0)
    }

    /// P(v = 1) for each row and variable of binary ones.
    fn ones(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        self.marginals(rows).chunks(2).map(|p| p[1]).collect()
    }

    fn expectation(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        self.ask("expectation", &[("x", self.tensor(rows))]).remove(0)
    }

    fn conditional(&self, query: &[Vec<f64>], evidence: &[Vec<f64>]) -> Vec<f64> {
        self.ask("conditional", &[("query", self.tensor(query)), ("evidence", self.tensor(evidence))]).remove(0)
    }

    fn sample(&self, rows: &[Vec<f64>], seeds: &[i64]) -> Rows {
        let seeds = Tensor::of(&[seeds.len()], seeds).unwrap();
        let found = self.ask("sample", &[("x", self.tensor(rows)), ("seed", seeds)]).remove(0);
        found.chunks(self.variables).map(<[f64]>::to_vec).collect()
    }

    fn missing(&self) -> Vec<f64> {
        vec![f64::NAN; self.variables]
    }
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let is_close = found == expected || (found - expected).abs() <= tolerance;
    assert!(is_close, "{what}: {found}, expected {expected}");
}

#[track_caller]
fn all_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    found.iter().zip(expected).enumerate().for_each(|(n, (f, e))| close(*f, *e, tolerance, &format!("{what}, {n}")));
}

fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs() / e.abs())
        .fold(0.0, |a, b| if b.is_nan() { b } else { f64::max(a, b) })
}

/// Row `r` with variable `v`, from 0, missing when `v + 1 + r` is odd.
fn masked(rows: &[Vec<f64>]) -> Rows {
    let cell = |r: usize, (v, x): (usize, &f64)| if (v + 1 + r) % 2 == 1 { f64::NAN } else { *x };
    rows.iter().enumerate().map(|(r, row)| row.iter().enumerate().map(|c| cell(r, c)).collect()).collect()
}

fn state(row: &[f64]) -> String {
    row.iter().map(|x| x.to_string()).collect()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn counts(name: &str, c: &Native, golden: &Value) {
    let fact = |key: &str| c.fact(key).parse::<u64>().unwrap();
    let n = |key: &str| golden[key].as_u64().unwrap();
    let yes = |key: &str| c.fact(key) == "yes";
    assert_eq!((fact("variables"), fact("depth")), (n("variables"), n("depth")), "{name}");
    assert_eq!((yes("smooth"), yes("decomposable")), (true, true), "{name}");
    if let Some(structured) = golden["structured"].as_bool() {
        assert_eq!(yes("structured"), structured, "{name}");
    }
    // Nodes that the root does not reach are left out here.
    if n("unreachable_nodes") == 0 {
        let found = ["inputs", "products", "sums", "edges", "free_weights", "max_fan_in"].map(fact);
        let expected = ["leaves", "products", "sums", "edges", "free_sum_weights", "max_fan_in"].map(n);
        assert_eq!(found, expected, "{name}");
    }
}

fn psdd(name: &str, c: &Native, golden: &Value, folder: &Path) {
    assert_eq!(c.fact("deterministic"), "yes", "{name}");
    let tolerance = golden["tolerance"]["logp_absolute"].as_f64().unwrap();
    let near = |found: f64, expected: &Value, what: &str| {
        close(found, expected.as_f64().unwrap(), tolerance, &format!("{name} {what}"));
    };
    let nothing = [c.missing()];
    near(c.log_likelihood(&nothing)[0], &golden["all_missing_logp"], "all missing");
    let (best, value) = c.mpe(&nothing);
    near(value[0], &golden["mpe"]["logp"], "mpe");
    if golden["mpe"]["tied"] == false {
        assert_eq!(state(&best[0]), golden["mpe"]["state"], "{name}");
    }
    near(c.log_likelihood(&best)[0], &golden["mpe"]["logp"], "the best row");
    let prior = numbers(&golden["prior_marginals"]["p"]);
    all_close(&c.ones(&nothing), &prior, tolerance, name);
    // Of a binary variable the expected value is the probability of 1.
    all_close(&c.expectation(&nothing), &prior, 1e-6, name);
    let Some(data) = golden.get("data") else { return };
    let x = table(&folder.join(data["file"].as_str().unwrap()));
    let ll = c.log_likelihood(&x);
    assert!(ll.iter().all(|v| v.is_finite()), "{name}");
    near(mean(&ll), &data["mean_ll"], "mean");
    near(ll.iter().copied().fold(f64::INFINITY, f64::min), &data["min_ll"], "min");
    near(ll.iter().copied().fold(f64::NEG_INFINITY, f64::max), &data["max_ll"], "max");
    all_close(&ll[..10], &numbers(&data["first_ll"]), tolerance, name);
    let (golden, hidden) = (&golden["masked"], masked(&x[..10]));
    all_close(&c.log_likelihood(&hidden), &numbers(&golden["first_ll"]), tolerance, name);
    all_close(&c.ones(&hidden[..1]), &numbers(&golden["row0_marginals"]["p"]), tolerance, name);
    let (best, value) = c.mpe(&hidden[..3]);
    for r in 0..3 {
        near(value[r], &golden["first_mpe_logp"][r], "masked mpe");
        if golden["first_mpe_tied"][r] == false {
            assert_eq!(state(&best[r]), golden["first_mpe_state"][r], "{name}");
        }
    }
    // The half that is missing given the other: by Bayes.
    let joint = c.log_likelihood(&x[..10]);
    let difference: Vec<f64> = joint.iter().zip(c.log_likelihood(&hidden)).map(|(a, b)| a - b).collect();
    all_close(&c.conditional(&x[..10], &hidden), &difference, 1e-12 * -joint[0], name);
}

fn evidence(golden: &Value, c: &Native) -> Vec<f64> {
    let mut row = c.missing();
    for (var, value) in golden["evidence"].as_object().unwrap() {
        row[var.parse::<usize>().unwrap() - 1] = value.as_f64().unwrap();
    }
    row
}

/// Every row of binary variables, the last fastest.
fn all_rows(variables: usize) -> Rows {
    (0..1usize << variables)
        .map(|n| (0..variables).map(|v| f64::from((n >> (variables - 1 - v) & 1) as u8)).collect())
        .collect()
}

/// Everything that can be asked about binary variables, by adding up the probabilities of rows.
fn enumerated(name: &str, c: &Native, joint: &[f64]) {
    let rows = all_rows(c.variables);
    let p: Vec<f64> = c.log_likelihood(&rows).iter().map(|l| l.exp()).collect();
    all_close(&p, joint, 1e-9, name);
    // Each cell missing, 0 or 1; some of these where they are many.
    let patterns = 3usize.pow(c.variables as u32);
    let cell = |n: usize, v: usize| [f64::NAN, 0.0, 1.0][n / 3usize.pow(v as u32) % 3];
    let step = patterns.div_ceil(243) | 1;
    let given: Rows = (0..patterns).step_by(step).map(|n| (0..c.variables).map(|v| cell(n, v)).collect()).collect();
    let fits = |row: &[f64], given: &[f64]| row.iter().zip(given).all(|(x, g)| g.is_nan() || x == g);
    let matching = |g: &[f64]| -> Vec<(usize, f64)> {
        (0..rows.len()).filter(|r| fits(&rows[*r], g)).map(|r| (r, joint[r])).collect()
    };
    let mass = |g: &[f64]| matching(g).iter().map(|(_, p)| p).sum::<f64>();
    let found: Vec<f64> = c.log_likelihood(&given).iter().map(|l| l.exp()).collect();
    let (best, value) = c.mpe(&given);
    let (ones, expectation) = (c.ones(&given), c.expectation(&given));
    for (n, g) in given.iter().enumerate() {
        let what = format!("{name} {g:?}");
        let total = mass(g);
        close(found[n], total, 1e-9, &what);
        let top = matching(g).iter().map(|(_, p)| *p).fold(0.0, f64::max);
        close(value[n].exp(), top, 1e-9, &what);
        if top > 0.0 {
            let r = rows.iter().position(|r| *r == best[n]).unwrap();
            close(joint[r], top, 1e-9, &what);
            assert!(fits(&best[n], g), "{what}");
        }
        for v in 0..c.variables {
            let with = |x: f64| {
                let mut g = g.clone();
                g[v] = x;
                mass(&g)
            };
            let (one, all) = (with(1.0), with(f64::NAN));
            let at = n * c.variables + v;
            if all > 1e-12 {
                close(ones[at], one / all, 1e-7, &what);
            } else {
                assert!(ones[at].is_nan() || all > 0.0, "{what}");
            }
            match g[v].is_nan() {
                true if total > 1e-12 => close(expectation[at], one / all, 1e-7, &what),
                true => assert!(expectation[at].is_nan() || total > 0.0, "{what}"),
                false => assert_eq!(expectation[at], g[v], "{what}"),
            }
        }
    }
    // Draws, by chi-square on the rows that are likely enough to be counted.
    let draws = 20_000;
    let seeds: Vec<i64> = (0..draws).collect();
    let mut seen: HashMap<String, f64> = HashMap::new();
    c.sample(&vec![c.missing(); draws as usize], &seeds).iter().for_each(|r| *seen.entry(state(r)).or_default() += 1.0);
    let (mut square, mut cells) = (0.0, 0.0f64);
    for (row, p) in rows.iter().zip(joint) {
        let (count, expected) = (seen.get(&state(row)).copied().unwrap_or(0.0), p * draws as f64);
        if expected >= 5.0 {
            square += (count - expected).powi(2) / expected;
            cells += 1.0;
        } else if *p == 0.0 {
            assert_eq!(count, 0.0, "{name} draws {row:?}");
        }
    }
    // Five deviations above the mean.
    assert!(square < cells + 5.0 * (2.0 * cells).sqrt(), "{name}: chi-square {square} of {cells} cells");
}

fn spnc(name: &str, c: &Native, golden: &Value, folder: &Path) {
    let at = |key: &str| folder.join(golden["data"][key].as_str().unwrap());
    let x = table(&at("input"));
    let expected: Vec<f64> = table(&at("output")).into_iter().map(|row| row[0]).collect();
    let error = relative(&c.log_likelihood(&x), &expected);
    assert!(error <= golden["tolerance"]["logp_relative"].as_f64().unwrap(), "{name}: {error:e}");
    all_close(&c.log_likelihood(&masked(&x[..10])), &numbers(&golden["masked"]["first_ll"]), 1e-10, name);
    all_close(&c.log_likelihood(&[c.missing()]), &[golden["all_missing_logp"].as_f64().unwrap()], 1e-12, name);
}

fn goldens(format: &str, f: impl Fn(&str, &Native, &Value, &Path)) {
    let Some(folder) = shared("data/circuits") else { return };
    let text = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    for (name, golden) in goldens["models"].as_object().unwrap() {
        if golden["format"].as_str().unwrap().starts_with(format) {
            let c = Native::f64(&folder.join(golden["file"].as_str().unwrap()));
            counts(name, &c, &golden["counts"]);
            f(name, &c, golden, &folder);
        }
    }
}

#[test]
fn sentential_decision_diagrams_give_the_golden_values() {
    goldens("psdd", |name, c, golden, folder| {
        psdd(name, c, golden, folder);
        if let Some(joint) = golden.get("joint") {
            enumerated(name, c, &numbers(&joint["p"]));
        }
        if name == "nltcs" {
            let p: Vec<f64> = c.log_likelihood(&all_rows(16)).iter().map(|l| l.exp()).collect();
            close(p.iter().sum(), 1.0, 1e-12, name);
            close(p.iter().copied().fold(0.0, f64::max).ln(), c.mpe(&[c.missing()]).1[0], 1e-12, name);
        }
        for case in golden.get("marginals_brute_forced").and_then(Value::as_array).into_iter().flatten() {
            let row = [evidence(case, c)];
            close(c.log_likelihood(&row)[0], case["logp"].as_f64().unwrap(), 1e-9, name);
            close(c.mpe(&row).1[0], case["mpe_logp"].as_f64().unwrap(), 1e-9, name);
        }
    });
}

#[test]
fn networks_of_spnc_give_its_own_values() {
    goldens("SPNC", spnc);
}

#[test]
fn a_network_and_the_circuits_compiled_from_it_agree() {
    let Some(folder) = shared("data/circuits/psdd") else { return };
    let p = |file: &str| -> Vec<f64> {
        let c = Native::f64(&folder.join(file));
        c.log_likelihood(&all_rows(8)).iter().map(|l| l.exp()).collect()
    };
    let network = p("asia.uai");
    close(network.iter().sum(), 1.0, 1e-14, "the network");
    ["asia.uai.psdd", "asia-bdd.psdd"].into_iter().for_each(|file| all_close(&p(file), &network, 1e-6, file));
}

struct Reference(HashMap<String, eval::Tensor>);

impl Reference {
    fn open(path: &Path) -> Reference {
        Reference(stored(path))
    }

    fn get(&self, name: &str) -> Vec<f64> {
        match &self.0[name].data {
            Data::F(v) => v.clone(),
            Data::I(v) => v.iter().map(|i| *i as f64).collect(),
        }
    }

    /// Rows, whole and with the given cells missing.
    fn rows(&self) -> (Rows, Rows) {
        let full: Rows = self.get("rows").chunks(64).map(<[f64]>::to_vec).collect();
        let mask = self.get("missing");
        let hide = |(row, m): (&Vec<f64>, &[f64])| -> Vec<f64> {
            row.iter().zip(m).map(|(x, m)| if *m == 1.0 { f64::NAN } else { *x }).collect()
        };
        let part = full.iter().zip(mask.chunks(64)).map(hide).collect();
        (full, part)
    }
}

#[test]
fn hidden_chow_liu_trees_give_the_reference_values() {
    let Some(zoo) = shared("zoo") else { return };
    for (states, bound) in [(16, 2e-6), (64, 2e-6)] {
        let name = format!("digits-hclt-{states}");
        let model = zoo.join(format!("models/digits-hclt/{name}.jpc.gz"));
        let c = Native::f64(&model);
        let reference = Reference::open(&zoo.join(format!("reference/{name}.safetensors")));
        let (full, part) = reference.rows();
        let ll = c.log_likelihood(&full);
        all_close(&ll, &reference.get("ll"), 1e-9, &name);
        all_close(&c.log_likelihood(&part), &reference.get("ll_missing"), 1e-9, &name);
        all_close(&c.conditional(&full, &part), &reference.get("ll_conditional"), 1e-9, &name);
        all_close(&c.marginals(&part[..8]), &reference.get("marginals"), 1e-10, &name);
        let prior = reference.get("prior_marginals");
        all_close(&c.marginals(&[c.missing()]), &prior, 1e-10, &name);
        let means: Vec<f64> =
            prior.chunks(17).map(|p| p.iter().zip(0..).map(|(p, k)| p * f64::from(k)).sum()).collect();
        all_close(&c.expectation(&[c.missing()]), &means, 1e-9, &name);
        // One missing pixel of each row, with each of its values.
        let pixels = reference.get("query_pixel");
        let query = |(pixel, k): (usize, i32)| {
            let mut row = c.missing();
            row[pixel] = f64::from(k);
            row
        };
        let queries: Rows = pixels.iter().flat_map(|p| (0..17).map(move |k| query((*p as usize, k)))).collect();
        let given: Rows = part[..32].iter().flat_map(|row| vec![row.clone(); 17]).collect();
        all_close(&c.conditional(&queries, &given), &reference.get("query_logp"), 1e-9, &name);
        // Not the best completion, but one of a probability that is no less than its tree's.
        let (best, value) = c.mpe(&part[..8]);
        assert!(c.log_likelihood(&best).iter().zip(value).all(|(ll, tree)| *ll >= tree - 1e-9), "{name}");
        let short = Native::compile(&model, ElemType::F32);
        let error = relative(&short.log_likelihood(&full), &ll);
        assert!(error <= bound, "{name} in f32: {error:e}");
    }
}

#[test]
fn a_chow_liu_tree_gives_the_reference_values() {
    let Some(zoo) = shared("zoo") else { return };
    let c = Native::f64(&zoo.join("models/digits-clt"));
    assert_eq!(c.fact("deterministic"), "yes");
    let reference = Reference::open(&zoo.join("reference/digits-clt.safetensors"));
    let (full, part) = reference.rows();
    all_close(&c.log_likelihood(&full), &reference.get("ll"), 1e-9, "ll");
    all_close(&c.log_likelihood(&part), &reference.get("ll_missing"), 1e-9, "ll_missing");
    all_close(&c.conditional(&full, &part), &reference.get("ll_conditional"), 1e-9, "ll_conditional");
    let (states, values) = c.mpe(&part);
    all_close(&values, &reference.get("mpe_logp"), 1e-9, "mpe");
    assert_eq!(states.concat(), reference.get("mpe_state"));
    let (states, values) = c.mpe(&[c.missing()]);
    all_close(&values, &reference.get("mpe_all_missing_logp"), 1e-9, "mpe of nothing");
    assert_eq!(states.concat(), reference.get("mpe_all_missing_state"));
    all_close(&c.ones(&part[..8]), &reference.get("marginals"), 1e-10, "marginals");
    all_close(&c.ones(&[c.missing()]), &reference.get("prior_marginals"), 1e-10, "prior_marginals");
    let mut holes = full[..6].to_vec();
    let pixels = reference.get("brute_missing_pixels");
    holes.iter_mut().for_each(|row| pixels.iter().for_each(|p| row[*p as usize] = f64::NAN));
    let (states, values) = c.mpe(&holes);
    all_close(&values, &reference.get("brute_mpe_logp"), 1e-10, "enumerated maximum");
    assert_eq!(states.concat(), reference.get("brute_mpe_state"));
    all_close(&c.log_likelihood(&holes), &reference.get("brute_ll_missing"), 1e-10, "enumerated sum");
}

/// The rows of bbc are below what f32 holds as a probability, some below what f64 holds.
#[test]
fn nothing_vanishes_in_f32() {
    let Some(folder) = shared("data/circuits") else { return };
    let c = Native::compile(&folder.join("psdd/bbc.psdd"), ElemType::F32);
    let x = table(&folder.join("data/bbc.test.csv.gz"));
    let ll = c.log_likelihood(&x);
    close(mean(&ll), -258.052_695_577_940_1, 1e-4, "mean");
    close(ll.iter().copied().fold(f64::INFINITY, f64::min), -769.942_059_186_688, 1e-3, "min");
    let hidden = masked(&x[..20]);
    assert!(c.ones(&hidden).iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(c.expectation(&hidden).iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(c.mpe(&hidden).1.iter().all(|v| v.is_finite()));
}

/// The example: what is given stays, what is missing is filled in, and the rows come back from their stream.
#[test]
fn digits_are_completed_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = root().join("examples/models/digits-hclt/digits-hclt-16.jpc.gz");
    let rows = root().join("examples/models/digits-hclt/test-rows.csv.gz");
    let options = kiln::Options { targets: vec!["cpu:native".into()], ..Default::default() };
    kiln::compile(&model, &options, path("digits.kiln").as_ref()).unwrap();
    complete_digit::complete(&path("digits.kiln"), rows.to_str().unwrap(), &path("out.png")).unwrap();

    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path("out.png")).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    // Sixteen digits of 8 by 8 pixels, each 6 by 6, in six strips with gaps of 6.
    assert_eq!((info.width, info.height, info.color_type), (16 * 54 + 6, 6 * 54 + 6, png::ColorType::Rgb));
    let pixel = |strip: usize, digit: usize, at: usize| -> [u8; 3] {
        let (y, x) = (strip * 54 + 6 + at / 8 * 6 + 3, digit * 54 + 6 + at % 8 * 6 + 3);
        let at = (y * info.width as usize + x) * 3;
        pixels[at..at + 3].try_into().unwrap()
    };
    let is_grey = |c: [u8; 3]| c[0] == c[1] && c[1] == c[2];
    let digits = table(&rows);
    let mut differ = [0; 6];
    for (digit, at) in (0..16).flat_map(|digit| (0..64).map(move |at| (digit, at))) {
        let ink = (255.0 * (1.0 - digits[digit][at] / 16.0)).round() as u8;
        assert_eq!(pixel(0, digit, at), [ink; 3]);
        for (strip, differ) in differ.iter_mut().enumerate().skip(1) {
            let found = pixel(strip, digit, at);
            match (at < 32, strip) {
                (true, _) => assert_eq!(found, [ink; 3]),
                (false, 1) => assert!(!is_grey(found)),
                (false, _) => {
                    assert!(is_grey(found));
                    *differ += usize::from(found != pixel(2, digit, at));
                }
            }
        }
    }
    // Draws are neither the best completion nor each other.
    assert!(differ[3..].iter().all(|n| *n > 50) && differ[3] != differ[4], "{differ:?}");
}
