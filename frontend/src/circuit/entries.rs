//! The module of a circuit: one entry for each question.

use super::facts::Facts;
use crate::error::{Errors, ImportError};
use kiln_ir::{
    Attrs, Circuit, ElemType, Module, Op, Region, Symbol, Type, Value, attr::Attr, ops::Violation, scalar::Literal,
};
use std::path::Path;

/// Rows of one call.
const MAX_ROWS: i64 = 1 << 20;

/// Entries of a circuit in `elem`, f64 when absent:
/// - `log_likelihood(x) -> log_likelihood[B]`
/// - `marginals(x) -> marginals[B,V,K]`, where all variables are discrete
/// - `mpe(x) -> states[B,V], log_value[B]`
/// - `sample(x, seed) -> states[B,V]`
/// - `conditional(query, evidence) -> log_probability[B]`
/// - `expectation(x) -> expectation[B,V]`
pub(super) fn module(
    circuit: Circuit,
    facts: Facts,
    elem: Option<ElemType>,
    path: &Path,
    errors: &mut Errors,
) -> Option<Module> {
    let elem = elem.unwrap_or(ElemType::F64);
    if !matches!(elem, ElemType::F32 | ElemType::F64) {
        let e = ImportError::new(path, "f32 or f64, in which circuits compute", elem.name());
        errors.push(e.at("--weights"));
        return None;
    }
    let mut m = Module::new(circuit.name.clone());
    m.metadata = facts;
    let rows = m.add_symbol(Symbol::new("B")?, 1, MAX_ROWS, 1);
    let x = Type::new(elem, [rows.clone(), (circuit.variables.len() as i64).into()]);
    let seeds = Type::new(ElemType::I64, [rows]);
    let is_discrete = circuit.is_discrete();
    let name = circuit.name.clone();
    m.circuits.push(circuit);
    let mut b = Entries { m, circuit: name, elem };
    let built = (|| -> Result<(), Violation> {
        b.one("log_likelihood", &x, None, "evidence", &["log_likelihood"])?;
        if is_discrete {
            b.one("marginals", &x, None, "marginals", &["marginals"])?;
        }
        b.one("mpe", &x, None, "mpe", &["states", "log_value"])?;
        b.one("sample", &x, Some(&seeds), "sample", &["states"])?;
        b.conditional(&x)?;
        b.one("expectation", &x, None, "expectation", &["expectation"])
    })();
    match built {
        Ok(()) => Some(b.m),
        Err(violation) => {
            errors.push(ImportError::new(path, "a circuit that can be asked", violation.to_string()));
            None
        }
    }
}

struct Entries {
    m: Module,
    circuit: String,
    elem: ElemType,
}

impl Entries {
    fn query(
        &mut self,
        body: Region,
        x: Value,
        seed: Option<Value>,
        kind: &'static str,
    ) -> Result<Vec<Value>, Violation> {
        let mut attrs = Attrs::default();
        attrs.set("circuit", Attr::Name(self.circuit.clone()));
        attrs.set("kind", kind);
        attrs.set("elem", self.elem);
        self.m.append(body, Op::CircuitQuery, [Some(x), None, seed], attrs, None)
    }

    fn op<const N: usize>(
        &mut self,
        body: Region,
        op: Op,
        operands: [Value; N],
        attrs: impl Into<Attrs>,
    ) -> Result<Value, Violation> {
        Ok(self.m.append(body, op, operands, attrs, None)?[0])
    }

    fn one(
        &mut self,
        name: &str,
        x: &Type,
        seed: Option<&Type>,
        kind: &'static str,
        outputs: &[&str],
    ) -> Result<(), Violation> {
        let seed = seed.map(|ty| ("seed".to_string(), ty.clone()));
        let body = self.m.add_entry(name, [("x".to_string(), x.clone())].into_iter().chain(seed));
        let args = self.m.regions[body].args.clone();
        let results = self.query(body, args[0], args.get(1).copied(), kind)?;
        self.m.set_outputs(body, outputs.iter().map(ToString::to_string).zip(results));
        Ok(())
    }

    /// `ln P(query | evidence)`: the difference of two evidences. A cell that both give, but not alike, leaves a joint
    /// evidence of probability 0.
    fn conditional(&mut self, x: &Type) -> Result<(), Violation> {
        let inputs = ["query", "evidence"].map(|name| (name.to_string(), x.clone()));
        let body = self.m.add_entry("conditional", inputs);
        let [query, evidence] = self.m.regions[body].args[..] else { return Ok(()) };
        let compare = |dir| Attrs::from([("dir", Attr::Word(dir))]);
        let asked = self.op(body, Op::Compare, [query, query], compare("eq"))?;
        let known = self.op(body, Op::Compare, [evidence, evidence], compare("eq"))?;
        let given = self.op(body, Op::And, [asked, known], Attrs::default())?;
        let differs = self.op(body, Op::Compare, [query, evidence], compare("ne"))?;
        let apart = self.op(body, Op::And, [given, differs], Attrs::default())?;
        let any = [("kind", Attr::Word("max")), ("axes", Attr::Ints(vec![1])), ("keep", Attr::Bool(false))];
        let apart = self.op(body, Op::Reduce, [apart], any)?;
        let both = self.op(body, Op::Select, [asked, query, evidence], Attrs::default())?;
        let joint = self.query(body, both, None, "evidence")?[0];
        let alone = self.query(body, evidence, None, "evidence")?[0];
        let never = Literal::of(self.elem, f64::NEG_INFINITY);
        let never = self.m.add_const(None, Type::scalar(self.elem), vec![never]);
        let joint = self.op(body, Op::Select, [apart, never, joint], Attrs::default())?;
        let result = self.op(body, Op::Sub, [joint, alone], Attrs::default())?;
        self.m.set_outputs(body, [("log_probability".to_string(), result)]);
        Ok(())
    }
}
