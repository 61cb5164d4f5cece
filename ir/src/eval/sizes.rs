//! Symbols get their values from the shapes of inputs and states; every other size follows from them.

use super::{EvalError, control::Run, tensor::Tensor, tensor::count};
use crate::{Accepts, Dim, Entry, Region, State, Symbol, Type};
use std::rc::Rc;

impl Run<'_> {
    /// Binds the symbols that stand alone as a size of an input or of a state that the entry uses, then checks every
    /// size and the declarations of the symbols.
    pub(super) fn bind(&mut self, body: Region, names: &[String], given: &[Rc<Tensor>]) -> Result<(), EvalError> {
        let m = self.module;
        let input = |name: &str, message: String| EvalError::Input { name: name.into(), message };
        for ((arg, name), tensor) in m.regions[body].args.iter().zip(names).zip(given) {
            let ty = m.ty(*arg);
            tensor.check().map_err(|e| input(name, e))?;
            if tensor.elem != ty.elem || tensor.shape.len() != ty.rank() {
                return Err(input(name, format!("expected {ty}, found {}", describe(tensor))));
            }
            self.bind_plain(ty, &tensor.shape).map_err(|e| input(name, e))?;
        }
        let used = m.states_in(body);
        for state in &used {
            let data = &m.states[*state];
            let error = |message: String| EvalError::State { name: data.name.clone(), message };
            match self.states.get(&data.name).map(|t| (t.check(), t.elem, t.shape.clone())) {
                Some((checked, elem, shape)) => {
                    checked.map_err(error)?;
                    if elem != data.ty.elem || shape.len() != data.ty.rank() {
                        return Err(error(format!("expected {}, found {elem}{shape:?}", data.ty)));
                    }
                    self.bind_plain(&data.ty, &shape).map_err(error)?;
                }
                None => {
                    let axis = data.grows.and_then(|a| data.ty.dims.get(usize::try_from(a).ok()?));
                    if let Some(symbol) = axis.and_then(Dim::as_symbol) {
                        self.bind_symbol(symbol, 0).map_err(error)?;
                    }
                }
            }
        }
        for facts in &m.symbols {
            let Some(v) = self.symbols.get(&facts.symbol) else { continue };
            let error = |message: String| EvalError::Symbol { symbol: facts.symbol.to_string(), message };
            if *v < facts.min || *v > facts.max {
                return Err(error(format!("expected {}..{}, found {v}", facts.min, facts.max)));
            }
            if v % facts.multiple_of.max(1) != 0 {
                return Err(error(format!("expected a multiple of {}, found {v}", facts.multiple_of)));
            }
        }
        for ((arg, name), tensor) in m.regions[body].args.iter().zip(names).zip(given) {
            let shape = self.shape(m.ty(*arg)).map_err(|e| input(name, e))?;
            if shape != tensor.shape {
                return Err(input(name, format!("expected {:?} for {}, found {:?}", shape, m.ty(*arg), tensor.shape)));
            }
        }
        used.into_iter().try_for_each(|state| self.prepare_state(state))
    }

    /// Refuses inputs whose elements are not those that the entry accepts.
    pub(super) fn accept(&self, entry: &Entry, names: &[String], given: &[Rc<Tensor>]) -> Result<(), EvalError> {
        let mut problems = vec![];
        for (n, accepts) in &entry.accepts {
            let (Some(name), Some(tensor)) = (names.get(*n), given.get(*n)) else { continue };
            let max = match accepts {
                Accepts::Range { max, .. } => {
                    self.size(max).map_err(|message| EvalError::Input { name: name.clone(), message })?
                }
                Accepts::Finite | Accepts::Size => 0,
            };
            problems.extend(accepts.problems(name, tensor, max));
        }
        if problems.is_empty() { Ok(()) } else { Err(EvalError::Values(problems)) }
    }

    fn bind_plain(&mut self, ty: &Type, shape: &[usize]) -> Result<(), String> {
        for (dim, size) in ty.dims.iter().zip(shape) {
            if let Some(symbol) = dim.as_symbol() {
                self.bind_symbol(symbol, *size as i64)?;
            }
        }
        Ok(())
    }

    fn bind_symbol(&mut self, symbol: Symbol, size: i64) -> Result<(), String> {
        match *self.symbols.entry(symbol).or_insert(size) {
            bound if bound == size => Ok(()),
            bound => Err(format!("{symbol} is {bound} elsewhere, found {size}")),
        }
    }

    /// Makes an absent state: empty along the axis by which it grows, zero if it does not grow.
    fn prepare_state(&mut self, state: State) -> Result<(), EvalError> {
        let data = &self.module.states[state];
        let error = |message: String| EvalError::State { name: data.name.clone(), message };
        let mut shape = self.shape(&data.ty).map_err(error)?;
        if let Some(held) = self.states.get(&data.name) {
            return if held.shape == shape {
                Ok(())
            } else {
                Err(error(format!("expected {shape:?}, found {:?}", held.shape)))
            };
        }
        if let Some(size) = data.grows.and_then(|a| shape.get_mut(usize::try_from(a).ok()?)) {
            *size = 0;
        }
        self.reserve(&shape, || format!("state @{}", data.name))?;
        self.states.insert(data.name.clone(), super::movement::filled(data.ty.elem, &shape, 0.0));
        Ok(())
    }

    /// The value of a size.
    pub(super) fn size(&self, dim: &Dim) -> Result<i64, String> {
        dim.eval(&|s| self.symbols.get(&s).copied()).ok_or_else(|| {
            match dim.symbols().into_iter().find(|s| !self.symbols.contains_key(s)) {
                Some(unbound) => format!("{unbound} in the size {dim} is not bound by any input"),
                None => format!("the size {dim} has no value"),
            }
        })
    }

    /// The sizes of a type.
    pub(super) fn shape(&self, ty: &Type) -> Result<Vec<usize>, String> {
        let mut shape = vec![];
        for dim in &ty.dims {
            let size = self.size(dim)?;
            shape.push(usize::try_from(size).map_err(|_| format!("the size {dim} of {ty} is {size}"))?);
        }
        match count(&shape) {
            Some(_) => Ok(shape),
            None => Err(format!("{shape:?} has too many elements")),
        }
    }

    /// Whether a tensor of this shape still fits.
    pub(super) fn reserve(&self, shape: &[usize], place: impl Fn() -> String) -> Result<(), EvalError> {
        match count(shape).and_then(|n| n.checked_add(self.live)) {
            Some(n) if n <= self.limits.elements => Ok(()),
            _ => {
                let message =
                    format!("a tensor of shape {shape:?} exceeds the limit of {} elements", self.limits.elements);
                Err(EvalError::Limit { place: place(), message })
            }
        }
    }
}

/// `f32[2,3]`
pub(super) fn describe(tensor: &Tensor) -> String {
    Type::new(tensor.elem, tensor.shape.iter().map(|d| *d as i64)).to_string()
}
