//! Models of other tools with values that other programs computed, read where they lie beside the repository.

use super::{circuit, each, rows, shared, table};
use kiln_ir::{Circuit, circuit::Property};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
}

fn all_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    found.iter().zip(expected).enumerate().for_each(|(n, (f, e))| close(*f, *e, tolerance, &format!("{what}, {n}")));
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Row `r` with variable `v`, from 0, missing when `v + 1 + r` is odd.
fn masked(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let hide = |r: usize, row: &Vec<f64>| {
        row.iter().enumerate().map(|(v, x)| if (v + 1 + r) % 2 == 1 { f64::NAN } else { *x }).collect()
    };
    rows.iter().enumerate().map(|(r, row)| hide(r, row)).collect()
}

fn state(row: &[f64]) -> String {
    row.iter().map(|x| x.to_string()).collect()
}

fn missing(c: &Circuit) -> Vec<f64> {
    vec![f64::NAN; c.variables.len()]
}

/// P(v = 1) for each variable.
fn ones(c: &Circuit, row: &[f64]) -> Vec<f64> {
    let k = c.max_values() as usize;
    c.marginals(row).chunks(k).map(|p| p[1]).collect()
}

fn counts(name: &str, c: &Circuit, golden: &Value) {
    let r = c.check();
    let n = |key: &str| golden[key].as_u64().unwrap() as usize;
    assert_eq!(c.variables.len(), n("variables"), "{name}");
    assert_eq!(r.used_variables, n("used_variables"), "{name}");
    assert_eq!(r.is(Property::Smooth), golden["smooth"].as_bool(), "{name}");
    assert_eq!(r.is(Property::Decomposable), golden["decomposable"].as_bool(), "{name}");
    assert_eq!(r.depth as usize, n("depth"), "{name}");
    assert_eq!(r.max_fan_in, n("max_fan_in"), "{name}");
    close(r.max_log_weight_sum, golden["max_abs_log_weight_sum"].as_f64().unwrap(), 1e-15, name);
    if let Some(structured) = golden["structured"].as_bool() {
        assert_eq!(r.is(Property::Structured), Some(structured), "{name}");
    }
    // Nodes that the root does not reach are left out here.
    if n("unreachable_nodes") == 0 {
        let found = (r.inputs, r.products, r.sums, r.edges, r.free_weights, r.shared);
        let expected = (n("leaves"), n("products"), n("sums"), n("edges"), n("free_sum_weights"), n("shared_nodes"));
        assert_eq!(found, expected, "{name}");
    }
}

fn psdd(name: &str, c: &Circuit, golden: &Value, folder: &Path) {
    let tolerance = golden["tolerance"]["logp_absolute"].as_f64().unwrap();
    let near = |found: f64, expected: &Value, what: &str| {
        close(found, expected.as_f64().unwrap(), tolerance, &format!("{name} {what}"));
    };
    near(c.log_likelihood(&missing(c)), &golden["all_missing_logp"], "all missing");
    let (best, value) = c.mpe(&missing(c));
    near(value, &golden["mpe"]["logp"], "mpe");
    if golden["mpe"]["tied"] == false {
        assert_eq!(state(&best), golden["mpe"]["state"], "{name}");
    }
    near(c.log_likelihood(&best), &golden["mpe"]["logp"], "the best row");
    let prior = numbers(&golden["prior_marginals"]["p"]);
    all_close(&ones(c, &missing(c)), &prior, tolerance, name);
    // Of a binary variable the expected value is the probability of 1.
    all_close(&c.expectation(&missing(c)), &prior, 1e-6, name);
    if let Some(data) = golden.get("data") {
        let x = table(&folder.join(data["file"].as_str().unwrap()));
        let ll = each(&x, |row| c.log_likelihood(row));
        near(mean(&ll), &data["mean_ll"], "mean");
        near(ll.iter().copied().fold(f64::INFINITY, f64::min), &data["min_ll"], "min");
        near(ll.iter().copied().fold(f64::NEG_INFINITY, f64::max), &data["max_ll"], "max");
        all_close(&ll[..10], &numbers(&data["first_ll"]), tolerance, name);
        let (masked, hidden) = (&golden["masked"], masked(&x[..10]));
        let ll: Vec<f64> = hidden.iter().map(|row| c.log_likelihood(row)).collect();
        all_close(&ll, &numbers(&masked["first_ll"]), tolerance, name);
        all_close(&ones(c, &hidden[0]), &numbers(&masked["row0_marginals"]["p"]), tolerance, name);
        for (r, row) in hidden.iter().enumerate().take(3) {
            let (best, value) = c.mpe(row);
            near(value, &masked["first_mpe_logp"][r], "masked mpe");
            if masked["first_mpe_tied"][r] == false {
                assert_eq!(state(&best), masked["first_mpe_state"][r], "{name}");
            }
        }
    }
    if let Some(joint) = golden.get("joint") {
        let p: Vec<f64> = rows(c).iter().map(|row| c.log_likelihood(row).exp()).collect();
        all_close(&p, &numbers(&joint["p"]), tolerance, name);
    }
    if let Some(sum) = golden.get("sum_over_all_inputs") {
        let p = each(&rows(c), |row| c.log_likelihood(row).exp());
        near(p.iter().sum(), sum, "sum over all rows");
        near(p.iter().copied().fold(0.0, f64::max).ln(), &golden["mpe"]["brute_force_logp"], "largest of all rows");
    }
    for case in golden.get("marginals_brute_forced").and_then(Value::as_array).into_iter().flatten() {
        let mut row = missing(c);
        for (var, value) in case["evidence"].as_object().unwrap() {
            row[var.parse::<usize>().unwrap() - 1] = value.as_f64().unwrap();
        }
        near(c.log_likelihood(&row), &case["logp"], "evidence");
        near(c.mpe(&row).1, &case["mpe_logp"], "mpe of evidence");
    }
}

fn spnc(name: &str, c: &Circuit, golden: &Value, folder: &Path) {
    let at = |key: &str| folder.join(golden["data"][key].as_str().unwrap());
    let x = table(&at("input"));
    let expected: Vec<f64> = table(&at("output")).into_iter().map(|row| row[0]).collect();
    let ll = each(&x, |row| c.log_likelihood(row));
    assert_eq!(ll.len(), expected.len());
    let tolerance = golden["tolerance"]["logp_relative"].as_f64().unwrap();
    for (n, (found, expected)) in ll.iter().zip(&expected).enumerate() {
        close(*found, *expected, tolerance * expected.abs(), &format!("{name}, row {n}"));
    }
    let hidden: Vec<f64> = masked(&x[..10]).iter().map(|row| c.log_likelihood(row)).collect();
    all_close(&hidden, &numbers(&golden["masked"]["first_ll"]), 1e-10, name);
}

#[test]
fn every_model_gives_the_golden_values() {
    let Some(folder) = shared("data/circuits") else { return };
    let text = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    for (name, golden) in goldens["models"].as_object().unwrap() {
        let file = folder.join(golden["file"].as_str().unwrap());
        let c = circuit(&file);
        counts(name, &c, &golden["counts"]);
        if golden["format"] == "psdd" {
            assert!(c.deterministic, "{name}");
            psdd(name, &c, golden, &folder);
        } else {
            assert!(!c.deterministic, "{name}");
            spnc(name, &c, golden, &folder);
        }
    }
}

#[test]
fn a_compiled_network_agrees_with_circuits_made_from_it() {
    let Some(folder) = shared("data/circuits/psdd") else { return };
    let network = circuit(&folder.join("asia.uai"));
    assert!(network.deterministic);
    close(network.log_likelihood(&missing(&network)), 0.0, 1e-14, "all missing");
    for other in ["asia.uai.psdd", "asia-bdd.psdd"] {
        let other = circuit(&folder.join(other));
        // Their variables are counted from 1 where the network's are from 0, and values stand for the same.
        let p = |c: &Circuit| rows(c).iter().map(|row| c.log_likelihood(row).exp()).collect::<Vec<f64>>();
        let (mut a, mut b) = (p(&network), p(&other));
        assert_eq!(a.len(), 256);
        all_close(&a, &b, 1e-6, "the joint");
        a.sort_by(f64::total_cmp);
        b.sort_by(f64::total_cmp);
        all_close(&a, &b, 1e-6, "the joint in order");
    }
}

struct Reference(Vec<u8>);

impl Reference {
    fn open(path: &Path) -> Reference {
        Reference(std::fs::read(path).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let t = file.tensor(name).unwrap();
        match t.dtype() {
            safetensors::Dtype::F64 => {
                t.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::I32 => {
                t.data().chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            safetensors::Dtype::U8 => t.data().iter().map(|b| f64::from(*b)).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// Rows, whole and with the given cells missing.
    fn rows(&self) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let full: Vec<Vec<f64>> = self.get("rows").chunks(64).map(<[f64]>::to_vec).collect();
        let mask = self.get("missing");
        let hide = |(row, m): (&Vec<f64>, &[f64])| {
            row.iter().zip(m).map(|(x, m)| if *m == 1.0 { f64::NAN } else { *x }).collect()
        };
        let part = full.iter().zip(mask.chunks(64)).map(hide).collect();
        (full, part)
    }
}

#[test]
fn hidden_chow_liu_trees_give_the_reference_values() {
    let Some(zoo) = shared("zoo") else { return };
    for states in [16, 64] {
        let name = format!("digits-hclt-{states}");
        let c = circuit(&zoo.join(format!("models/digits-hclt/{name}.jpc.gz")));
        assert_eq!(c.check().is(Property::Structured), Some(true), "{name}");
        let reference = Reference::open(&zoo.join(format!("reference/{name}.safetensors")));
        let (full, part) = reference.rows();
        all_close(&each(&full, |row| c.log_likelihood(row)), &reference.get("ll"), 1e-9, &name);
        all_close(&each(&part, |row| c.log_likelihood(row)), &reference.get("ll_missing"), 1e-9, &name);
        let found: Vec<f64> = part[..8].iter().flat_map(|row| c.marginals(row)).collect();
        all_close(&found, &reference.get("marginals"), 1e-10, &name);
        all_close(&c.marginals(&missing(&c)), &reference.get("prior_marginals"), 1e-10, &name);
    }
}

#[test]
fn a_chow_liu_tree_gives_the_reference_values() {
    let Some(zoo) = shared("zoo") else { return };
    let c = circuit(&zoo.join("models/digits-clt"));
    assert!(c.deterministic);
    let reference = Reference::open(&zoo.join("reference/digits-clt.safetensors"));
    let (full, part) = reference.rows();
    let ll: Vec<f64> = full.iter().map(|row| c.log_likelihood(row)).collect();
    all_close(&ll, &reference.get("ll"), 1e-9, "ll");
    let hidden: Vec<f64> = part.iter().map(|row| c.log_likelihood(row)).collect();
    all_close(&hidden, &reference.get("ll_missing"), 1e-9, "ll_missing");
    let (states, values): (Vec<Vec<f64>>, Vec<f64>) = part.iter().map(|row| c.mpe(row)).unzip();
    all_close(&values, &reference.get("mpe_logp"), 1e-9, "mpe");
    assert_eq!(states.concat(), reference.get("mpe_state"));
    let found: Vec<f64> = part[..8].iter().flat_map(|row| ones(&c, row)).collect();
    all_close(&found, &reference.get("marginals"), 1e-10, "marginals");
    let mut holes = full[..6].to_vec();
    let pixels = reference.get("brute_missing_pixels");
    holes.iter_mut().for_each(|row| pixels.iter().for_each(|p| row[*p as usize] = f64::NAN));
    let (states, values): (Vec<Vec<f64>>, Vec<f64>) = holes.iter().map(|row| c.mpe(row)).unzip();
    all_close(&values, &reference.get("brute_mpe_logp"), 1e-10, "enumerated maximum");
    assert_eq!(states.concat(), reference.get("brute_mpe_state"));
    let sums: Vec<f64> = holes.iter().map(|row| c.log_likelihood(row)).collect();
    all_close(&sums, &reference.get("brute_ll_missing"), 1e-10, "enumerated sum");
}
