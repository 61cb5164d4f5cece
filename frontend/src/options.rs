//! What the caller may decide about an import.

use crate::Format;
use kiln_ir::{ElemType, Symbol};
use std::fmt;

/// Options of an import; the default takes everything as the model says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LoadOptions {
    /// Overrides detection by content.
    pub format: Option<Format>,
    /// Sizes of inputs: fixed or renamed, one for each axis. They hold wherever the model uses the same symbol.
    pub shapes: Vec<(String, Vec<DimSpec>)>,
    /// What a circuit computes in, f64 when absent; other models do not look at it.
    pub elem: Option<ElemType>,
    /// Largest values of symbols, by the name they have after `shapes`.
    pub max: Vec<(String, i64)>,
}

/// One axis of an input as the caller wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DimSpec {
    Const(i64),
    Symbol(Symbol),
}

impl fmt::Display for DimSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DimSpec::Const(n) => n.fmt(f),
            DimSpec::Symbol(name) => name.fmt(f),
        }
    }
}

impl LoadOptions {
    /// Adds `NAME=1x128` or `NAME=BATCHxSEQ`: a lower-case `x` parts the axes.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn add_shape(&mut self, text: &str) -> Result<(), String> {
        let (name, axes) = pair(text, "NAME=1x128")?;
        let axes: Result<Vec<DimSpec>, String> = axes.split('x').map(dim).collect();
        self.shapes.push((name, axes?));
        Ok(())
    }

    /// Adds `NAME=4096`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn add_max(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = pair(text, "NAME=4096")?;
        let value =
            value.parse().ok().filter(|v| *v > 0).ok_or(format!("expected a positive number, found `{value}`"))?;
        self.max.push((name, value));
        Ok(())
    }
}

fn pair<'t>(text: &'t str, form: &str) -> Result<(String, &'t str), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value)),
        _ => Err(format!("expected {form}, found `{text}`")),
    }
}

fn dim(text: &str) -> Result<DimSpec, String> {
    match text.parse::<i64>() {
        Ok(n) if n > 0 => Ok(DimSpec::Const(n)),
        _ => Symbol::new(text)
            .map(DimSpec::Symbol)
            .ok_or(format!("expected a positive size or a name of at most 15 letters and digits, found `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_limits_are_read() {
        let mut options = LoadOptions::default();
        options.add_shape("input_ids=1xSEQ").unwrap();
        options.add_max("SEQ=128").unwrap();
        let seq = DimSpec::Symbol(Symbol::new("SEQ").unwrap());
        assert_eq!(options.shapes, [("input_ids".to_string(), vec![DimSpec::Const(1), seq])]);
        assert_eq!(options.max, [("SEQ".to_string(), 128)]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut o = LoadOptions::default();
        assert_eq!(o.add_shape("1x2").unwrap_err(), "expected NAME=1x128, found `1x2`");
        let zero = "expected a positive size or a name of at most 15 letters and digits, found `0`";
        assert_eq!(o.add_shape("a=0x2").unwrap_err(), zero);
        assert!(o.add_shape("a=1x").unwrap_err().ends_with("found ``"));
        assert_eq!(o.add_max("S=-1").unwrap_err(), "expected a positive number, found `-1`");
    }
}
