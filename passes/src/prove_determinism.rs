//! Marks circuits as deterministic: of the children of every sum at most one is positive for any complete row.
//!
//! ```text
//!     circuit @c vars=[2] {                        circuit @c vars=[2] deterministic {
//!       n0 = indicator var=0 value=0                 n0 = indicator var=0 value=0
//!       n1 = indicator var=0 value=1                 n1 = indicator var=0 value=1
//!       n2 = sum n0 log=-1.0, n1 log=-0.5            n2 = sum n0 log=-1.0, n1 log=-0.5
//!     }                                            }
//! ```
//!
//! Of such a circuit the most probable row is exact, and a complete row visits a small part. It must not fire without a
//! proof, as where two children have a row in common.

use crate::{
    Exactness, circuits,
    pass::{Context, Outcome, Pass, PassError},
};
use kiln_ir::{Module, circuit::Determinism};
use std::collections::HashSet;

pub(crate) static PASS: Pass = Pass {
    name: "prove-determinism",
    summary: "marks circuits of whose sums at most one child is positive",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut proved = HashSet::new();
    for c in m.circuits.values().filter(|c| !c.deterministic) {
        match c.prove_determinism() {
            Determinism::Proved => drop(proved.insert(c.name.clone())),
            Determinism::Unknown { why, .. } => cx.refused("prove-determinism", format!("circuit @{}", c.name), &why),
        }
    }
    Ok(circuits::rewrite(m, cx, Exactness::E0, |c| {
        proved.contains(&c.name).then(|| {
            let mut c = c.clone();
            c.deterministic = true;
            c
        })
    }))
}
