//! What an entry takes in an input beyond its type and shape: whoever runs the entry refuses anything else.

use crate::{
    Dim, ElemType, Symbol, Type,
    eval::Tensor,
    scalar::{Literal, Scalar},
};
use std::fmt;

/// Problems beyond these are counted: an input may hold any number.
const MAX_LISTED: usize = 10;

/// The elements that an input may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Accepts {
    /// Floats that are neither infinite nor NaN.
    Finite,
    /// Integers from `min` to `max`. If `filled`, any number of -1 may stand behind them along the last axis.
    Range { min: i64, max: Dim, filled: bool },
    /// Any: only the size of the input counts.
    Size,
}

impl Accepts {
    /// The symbols that it depends on.
    pub fn symbols(&self) -> Vec<Symbol> {
        match self {
            Accepts::Range { max, .. } => max.symbols(),
            Accepts::Finite | Accepts::Size => vec![],
        }
    }

    /// The same with sizes in the place of symbols.
    pub fn substitute(&self, with: &dyn Fn(Symbol) -> Option<Dim>) -> Accepts {
        match self {
            Accepts::Range { min, max, filled } => {
                Accepts::Range { min: *min, max: max.substitute(with), filled: *filled }
            }
            same => same.clone(),
        }
    }

    /// Why it cannot be said of an input of this type.
    pub(crate) fn misfit(&self, ty: &Type) -> Option<String> {
        let fits = match self {
            Accepts::Finite => ty.elem.is_float(),
            Accepts::Range { filled, .. } => {
                ty.elem.is_int() && !(*filled && (ty.rank() == 0 || !Literal::Int(-1).fits(ty.elem)))
            }
            Accepts::Size => true,
        };
        (!fits).then(|| format!("{ty} cannot be `{self}`"))
    }

    /// What is wrong with the elements of the input `name`.
    pub(crate) fn problems(&self, name: &str, x: &Tensor, max: i64) -> Vec<String> {
        let at = |i: usize| format!("input {name}{:?}", coordinates(&x.shape, i));
        let mut problems = vec![];
        let row = x.shape.last().copied().unwrap_or(1).max(1);
        for i in 0..x.data.len() {
            let Some(value) = x.data.get(i) else { break };
            let problem = match (self, value) {
                (Accepts::Finite, Scalar::F(_)) if !value.as_f64().is_finite() => {
                    format!("{} is {}, expected a finite number", at(i), value.as_f64())
                }
                (Accepts::Range { min, filled, .. }, Scalar::I(v)) => {
                    let unsigned_above = x.elem == ElemType::U64 && v < 0;
                    let next = if (i + 1) % row == 0 { None } else { x.data.get(i + 1) };
                    match next {
                        _ if (*min..=max).contains(&v) && !unsigned_above => continue,
                        Some(next) if *filled && v == -1 && next != value => format!(
                            "{} is -1, expected -1 only behind all others, found {} behind it",
                            at(i),
                            next.as_f64()
                        ),
                        _ if *filled && v == -1 => continue,
                        _ => {
                            let shown = if unsigned_above { (v as u64).to_string() } else { v.to_string() };
                            format!("{} is {shown}, expected {min} to {max}", at(i))
                        }
                    }
                }
                _ => continue,
            };
            problems.push(problem);
            if problems.len() > MAX_LISTED {
                problems.truncate(MAX_LISTED);
                problems.push(format!("input {name}: and more"));
                break;
            }
        }
        problems
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepts::Finite => f.write_str("finite"),
            Accepts::Range { min, max, filled } => {
                write!(f, "in {min}..{max}{}", if *filled { " filled" } else { "" })
            }
            Accepts::Size => f.write_str("size"),
        }
    }
}

/// The coordinates of an element of a tensor.
pub(crate) fn coordinates(shape: &[usize], mut at: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, extent) in index.iter_mut().zip(shape).rev() {
        (*i, at) = (at % (*extent).max(1), at / (*extent).max(1));
    }
    index
}
