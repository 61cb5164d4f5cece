//! Building a module in primitive ops, as a framework's exporter writes them.

use crate::{
    Weights,
    error::{Errors, ImportError},
    weights::elem_type,
};
use kiln_ir::{Attrs, Dim, ElemType, Module, Op, Region, Type, Value, Violation, WeightFile};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

/// A node that cannot be built is a fault of this crate, or sizes that the checks of the configuration let through.
pub(crate) type Built<T = Value> = Result<T, Violation>;

/// A module under construction, the weights that it takes, and the place in the model that is being written.
pub(crate) struct Graph<'a> {
    pub(crate) module: Module,
    weights: &'a Weights,
    /// The directory of the weights, for messages.
    dir: PathBuf,
    errors: &'a mut Errors,
    /// In front of every weight's name.
    prefix: &'a str,
    params: HashMap<String, Value>,
    used: HashSet<String>,
    body: Option<Region>,
    /// Weights as f32, in the entry that is being written.
    converted: HashMap<Value, Value>,
    source: String,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(
        name: &str,
        dir: PathBuf,
        weights: &'a Weights,
        prefix: &'a str,
        errors: &'a mut Errors,
    ) -> Graph<'a> {
        let mut module = Module::new(name);
        for file in weights.file_names() {
            module.files.push(file.to_string());
        }
        let (params, used, converted) = Default::default();
        Graph { module, weights, dir, errors, prefix, params, used, body: None, converted, source: String::new() }
    }

    /// Begins an entry; gives its inputs.
    pub(crate) fn begin(&mut self, entry: &str, inputs: &[(&str, Type)]) -> Vec<Value> {
        let inputs: Vec<_> = inputs.iter().map(|(name, ty)| (name.to_string(), ty.clone())).collect();
        let body = self.module.add_entry(entry, inputs);
        self.body = Some(body);
        self.converted.clear();
        self.module.regions[body].args.clone()
    }

    pub(crate) fn end(&mut self, outputs: &[(&str, Value)]) {
        if let Some(body) = self.body.take() {
            self.module.set_outputs(body, outputs.iter().map(|(name, v)| (name.to_string(), *v)));
        }
    }

    /// Names the place in the model that the next nodes come from.
    pub(crate) fn at(&mut self, module: &str) {
        self.source = format!("{}{module}", self.prefix);
    }

    pub(crate) fn op<V: Into<Option<Value>>>(
        &mut self,
        op: Op,
        operands: impl IntoIterator<Item = V>,
        attrs: impl Into<Attrs>,
    ) -> Built {
        let operands = operands.into_iter().map(Into::into).collect();
        Ok(self.nodes(op, operands, attrs.into(), vec![])?[0])
    }

    /// Adds a node that may have several results and regions.
    pub(crate) fn nodes(
        &mut self,
        op: Op,
        operands: Vec<Option<Value>>,
        attrs: Attrs,
        regions: Vec<Region>,
    ) -> Built<Vec<Value>> {
        let Some(body) = self.body else { return Err(Violation::new("entry", "no entry is open")) };
        let node = self.module.create_node(op, operands, attrs, regions, Some(self.source.clone()))?;
        self.module.regions[body].nodes.push(node);
        Ok(self.module.nodes[node].results.clone())
    }

    /// Writes a region of a node that is not there yet: `build` takes its arguments and gives what it yields. The place
    /// stays what it was.
    pub(crate) fn region(
        &mut self,
        args: impl IntoIterator<Item = Type>,
        build: impl FnOnce(&mut Self, &[Value]) -> Built<Vec<Value>>,
    ) -> Built<Region> {
        let region = self.module.add_region(args.into_iter().map(|ty| (None, ty)));
        let args = self.module.regions[region].args.clone();
        let (around, source) = (self.body.replace(region), self.source.clone());
        // What is converted inside is not visible behind the region.
        let converted = self.converted.clone();
        let results = build(self, &args);
        (self.body, self.source, self.converted) = (around, source, converted);
        self.module.regions[region].results = results?;
        Ok(region)
    }

    pub(crate) fn number(&mut self, value: f64) -> Value {
        self.module.number(ElemType::F32, value)
    }

    pub(crate) fn dims(&self, value: Value) -> Vec<Dim> {
        self.module.ty(value).dims.clone()
    }

    /// Whether the model has this weight.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.find(&format!("{}{name}", self.prefix)).is_some()
    }

    /// A weight in f32. One that is stored in another type is converted before use. An error is noted, and building
    /// goes on, when the file has none that fits.
    pub(crate) fn weight(&mut self, name: &str, shape: &[i64]) -> Built {
        let param = self.param(name, shape);
        if self.module.ty(param).elem == ElemType::F32 {
            return Ok(param);
        }
        if let Some(known) = self.converted.get(&param) {
            return Ok(*known);
        }
        let value = self.op(Op::Convert, [param], [("to", ElemType::F32.into())])?;
        self.converted.insert(param, value);
        Ok(value)
    }

    fn param(&mut self, name: &str, shape: &[i64]) -> Value {
        let key = format!("{}{name}", self.prefix);
        if let Some(known) = self.params.get(&key) {
            return *known;
        }
        let (stored_as, found) = match self.weights.find(&key) {
            Some(found) => (key.clone(), Some(found)),
            None => {
                // Checkpoints that were converted from TensorFlow; transformers renames them in the same way.
                let old =
                    key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
                let found = self.weights.find(&old);
                (if found.is_some() { old } else { key.clone() }, found)
            }
        };
        let place = format!("tensor {key}");
        let (mut elem, mut file) = (ElemType::F32, WeightFile::from_u32(0));
        match found {
            None => {
                let e = ImportError::new(&self.dir, format!("a tensor of shape {shape:?}"), "none in the weights");
                self.errors.push(e.at(place));
            }
            Some(found) => {
                let names = self.weights.file_names().nth(found.file.as_u32() as usize).unwrap_or("");
                let path = self.dir.join(names);
                file = found.file;
                match elem_type(found.dtype).filter(|e| e.is_float()) {
                    Some(stored) => elem = stored,
                    None => {
                        let e = ImportError::new(&path, "F32, F16, BF16 or F64", format!("{:?}", found.dtype));
                        self.errors.push(e.at(place.clone()));
                    }
                }
                if !shape.iter().map(|d| *d as u64).eq(found.shape.iter().map(|d| *d as u64)) {
                    let e = ImportError::new(&path, format!("shape {shape:?}"), format!("{:?}", found.shape));
                    self.errors.push(e.at(place));
                }
            }
        }
        let ty = Type::new(elem, shape.iter().copied());
        let value = self.module.add_param(key.clone(), ty, file, stored_as.clone());
        self.params.insert(key, value);
        self.used.insert(stored_as);
        value
    }

    /// `torch.nn.Linear`: the weight is stored `[output, input]`.
    pub(crate) fn linear(&mut self, x: Value, path: &str, input: i64, output: i64, bias: bool) -> Built {
        self.at(path);
        let weight = self.weight(&format!("{path}.weight"), &[output, input])?;
        let transposed = self.op(Op::Transpose, [weight], [("perm", vec![1, 0].into())])?;
        let product = self.op(Op::Matmul, [x, transposed], [])?;
        if !bias {
            return Ok(product);
        }
        let bias = self.weight(&format!("{path}.bias"), &[output])?;
        self.op(Op::Add, [product, bias], [])
    }

    /// Gives up: the sizes that the configuration asks for do not fit together.
    pub(crate) fn fail(self, config: &Path, violation: &Violation) {
        let e = ImportError::new(config, "sizes that fit together", violation.to_string());
        self.errors.push(e.at(self.source));
    }

    /// Ends the building: every tensor of the files must have been used or be known to be without effect on the
    /// outputs, as the table says: a prefix or a suffix (`*.x`) of a name, and a note on it, which may be empty.
    pub(crate) fn finish(self, unused: &[(&str, &str)], notes: &mut Vec<String>) -> Module {
        let mut left: Vec<(WeightFile, String)> = self.weights.keys().filter(|(_, k)| !self.used.contains(k)).collect();
        left.sort();
        for (file, key) in left {
            let name = key.strip_prefix(self.prefix).unwrap_or(&key);
            let known = unused.iter().find(|(pattern, _)| match pattern.strip_prefix('*') {
                Some(end) => name.ends_with(end),
                None => name.starts_with(pattern),
            });
            match known {
                Some((_, "")) => {}
                Some((_, note)) => {
                    if !notes.iter().any(|n| n == note) {
                        notes.push(note.to_string());
                    }
                }
                None => {
                    let path = self.dir.join(self.weights.file_names().nth(file.as_u32() as usize).unwrap_or(""));
                    let expected = "only tensors that the configuration describes";
                    let place = format!("tensor {}", crate::error::shown(&key));
                    self.errors.push(ImportError::new(&path, expected, "another one").at(place));
                }
            }
        }
        self.module
    }
}
