//! Modules: symbols, weights, constants, states and entry points over shared arenas of values, nodes and regions.

use crate::{
    Accepts, Circuit, Dim, ElemType, Op, Symbol, SymbolFacts, Type, attr::Attrs, ops::Violation, scalar::Literal,
};
use cranelift_entity::{PrimaryMap, entity_impl};
use std::collections::{BTreeMap, HashMap, HashSet};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal),* $(,)?) => {
        $($(#[$doc])* #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)] pub struct $name(u32);
          entity_impl!($name, $prefix);)*
    };
}
ids! {
    /// A tensor in SSA form.
    Value "v",
    /// An operation.
    Node "node",
    /// A list of nodes with arguments and results.
    Region "region",
    /// A weight held in a file.
    Param "param",
    /// A constant held in the module.
    Const "const",
    /// A declared state.
    State "state",
    /// A probabilistic circuit.
    CircuitId "circuit",
    /// A file that holds weights.
    WeightFile "file",
}

/// How far a module has come; printed in the text. Only the pass that is named advances it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// As a front end emits it: any op.
    Imported,
    /// After `canonicalize`: axes are non-negative, no op that only renames its operand.
    Canonical,
    /// After `legalize`: only ops of the target, grouped into `fusion`s.
    Legal,
}

impl Stage {
    pub const ALL: &'static [Stage] = &[Stage::Imported, Stage::Canonical, Stage::Legal];
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Canonical => "canonical",
            Stage::Legal => "legal",
        }
    }
}

/// The name of a value in the text: `%17` or `%points`. Numbers are never reused inside a module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Label {
    Number(u32),
    Name(String),
}

/// What defines a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Def {
    Param(Param),
    Const(Const),
    /// Argument `n` of a region.
    Arg(Region, u32),
    /// Result `n` of a node.
    Result(Node, u32),
}

#[derive(Clone, PartialEq, Debug)]
pub struct ValueData {
    pub ty: Type,
    pub def: Def,
    pub label: Label,
}

#[derive(Clone, PartialEq, Debug)]
pub struct NodeData {
    pub op: Op,
    /// One slot for each declared operand, `None` for an optional one that is absent; a variadic op has as many slots
    /// as operands.
    pub operands: Vec<Option<Value>>,
    pub attrs: Attrs,
    pub results: Vec<Value>,
    pub regions: Vec<Region>,
    /// Name of the place in the model file that the node comes from; shown in errors and traces.
    pub source: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RegionData {
    pub args: Vec<Value>,
    pub nodes: Vec<Node>,
    pub results: Vec<Value>,
}

/// A weight: where it is, never its data.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamData {
    pub value: Value,
    pub file: WeightFile,
    /// Its name in the file.
    pub key: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ConstData {
    pub value: Value,
    /// Row-major, as many as the type has elements.
    pub data: Vec<Literal>,
}

/// A tensor that outlives a call, such as a key-value cache.
///
/// One that grows holds nothing at first; the symbol that is the size of its growing axis is what it holds as a call
/// begins, the same for all states of the entry that share it. One that does not grow is all zeros at first. Of a call's
/// ops on it all but the last only read, and only that one may change it.
#[derive(Clone, PartialEq, Debug)]
pub struct StateData {
    pub name: String,
    pub ty: Type,
    /// The axis along which `state.append` grows it, if it grows.
    pub grows: Option<i64>,
    /// The largest size of that axis.
    pub capacity: i64,
    /// `session`: until it is reset. `call`: it is empty as every call begins.
    pub lifetime: &'static str,
}

/// The lifetimes that a state may have.
pub const LIFETIMES: &[&str] = &["session", "call"];

/// A function of the module that can be called from outside.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub name: String,
    /// Its arguments are the inputs, by label; its results the outputs.
    pub body: Region,
    pub outputs: Vec<String>,
    /// What elements an input may have, by its number, where not any.
    pub accepts: BTreeMap<usize, Accepts>,
}

/// A whole program. See the crate's text.
#[derive(Clone, PartialEq, Debug)]
pub struct Module {
    pub name: String,
    pub stage: Stage,
    pub symbols: Vec<SymbolFacts>,
    pub files: PrimaryMap<WeightFile, String>,
    pub params: PrimaryMap<Param, ParamData>,
    pub consts: PrimaryMap<Const, ConstData>,
    pub states: PrimaryMap<State, StateData>,
    pub circuits: PrimaryMap<CircuitId, Circuit>,
    pub entries: Vec<Entry>,
    /// Facts about the model that are not computation: `image.mean`, `labels`, ... carried to the artifact.
    pub metadata: BTreeMap<String, String>,
    pub values: PrimaryMap<Value, ValueData>,
    pub nodes: PrimaryMap<Node, NodeData>,
    pub regions: PrimaryMap<Region, RegionData>,
    scalars: HashMap<(ElemType, Literal), Value>,
    next_label: u32,
}

impl Module {
    pub fn new(name: impl Into<String>) -> Module {
        Module {
            name: name.into(),
            stage: Stage::Imported,
            symbols: vec![],
            files: PrimaryMap::new(),
            params: PrimaryMap::new(),
            consts: PrimaryMap::new(),
            states: PrimaryMap::new(),
            circuits: PrimaryMap::new(),
            entries: vec![],
            metadata: Default::default(),
            values: PrimaryMap::new(),
            nodes: PrimaryMap::new(),
            regions: PrimaryMap::new(),
            scalars: HashMap::new(),
            next_label: 0,
        }
    }

    /// Declares a symbol with its range; the name must be valid ([`Symbol::new`]).
    pub fn add_symbol(&mut self, symbol: Symbol, min: i64, max: i64, multiple_of: i64) -> Dim {
        self.symbols.push(SymbolFacts { symbol, min, max, multiple_of });
        Dim::symbol(symbol)
    }

    fn fresh(&mut self) -> Label {
        self.next_label += 1;
        Label::Number(self.next_label - 1)
    }

    /// Adds a value whose definition is already known. A numbered label keeps later numbers clear of it.
    pub(crate) fn add_value(&mut self, ty: Type, def: Def, label: Option<Label>) -> Value {
        let label = label.unwrap_or_else(|| self.fresh());
        if let Label::Number(n) = label {
            self.next_label = self.next_label.max(n.saturating_add(1));
        }
        self.values.push(ValueData { ty, def, label })
    }

    pub fn add_param(&mut self, label: impl Into<String>, ty: Type, file: WeightFile, key: impl Into<String>) -> Value {
        let value = self.add_value(ty, Def::Param(self.params.next_key()), Some(Label::Name(label.into())));
        self.params.push(ParamData { value, file, key: key.into() });
        value
    }

    /// A constant of rank 0; the same one every time.
    pub fn scalar(&mut self, elem: ElemType, literal: Literal) -> Value {
        let literal = rounded(elem, literal);
        if let Some(known) = self.scalars.get(&(elem, literal)) {
            return *known;
        }
        let value =
            self.add_value(Type::scalar(elem), Def::Const(self.consts.next_key()), Some(Label::Name(String::new())));
        self.consts.push(ConstData { value, data: vec![literal] });
        self.scalars.insert((elem, literal), value);
        value
    }

    /// [`Module::scalar`] from a number.
    pub fn number(&mut self, elem: ElemType, value: f64) -> Value {
        self.scalar(elem, Literal::of(elem, value))
    }

    /// A constant tensor; `data` is row-major and has as many elements as `ty`, whose sizes are constant.
    pub fn add_const(&mut self, label: Option<String>, ty: Type, data: Vec<Literal>) -> Value {
        if ty.rank() == 0 && data.len() == 1 {
            return self.scalar(ty.elem, data[0]);
        }
        let label = label.map(Label::Name);
        let data = data.into_iter().map(|l| rounded(ty.elem, l)).collect();
        let value = self.add_value(ty, Def::Const(self.consts.next_key()), label);
        self.consts.push(ConstData { value, data });
        value
    }

    /// A region with arguments of these names and types.
    pub fn add_region(&mut self, args: impl IntoIterator<Item = (Option<String>, Type)>) -> Region {
        let region = self.regions.push(RegionData::default());
        for (n, (name, ty)) in args.into_iter().enumerate() {
            let arg = self.add_value(ty, Def::Arg(region, n as u32), name.map(Label::Name));
            self.regions[region].args.push(arg);
        }
        region
    }

    pub fn add_entry(&mut self, name: impl Into<String>, inputs: impl IntoIterator<Item = (String, Type)>) -> Region {
        let body = self.add_region(inputs.into_iter().map(|(n, t)| (Some(n), t)));
        self.entries.push(Entry { name: name.into(), body, outputs: vec![], accepts: BTreeMap::new() });
        body
    }

    /// States what elements an input of an entry may have.
    pub fn accept(&mut self, input: Value, accepts: Accepts) {
        if let Def::Arg(body, n) = self.values[input].def
            && let Some(entry) = self.entries.iter_mut().find(|e| e.body == body)
        {
            entry.accepts.insert(n as usize, accepts);
        }
    }

    /// States what an entry returns.
    pub fn set_outputs(&mut self, body: Region, outputs: impl IntoIterator<Item = (String, Value)>) {
        let (names, values) = outputs.into_iter().unzip();
        self.regions[body].results = values;
        if let Some(entry) = self.entries.iter_mut().find(|e| e.body == body) {
            entry.outputs = names;
        }
    }

    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The circuit of this name.
    pub fn circuit(&self, name: &str) -> Option<&Circuit> {
        self.circuits.values().find(|c| c.name == name)
    }

    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value].ty
    }

    /// The node that defines the value, if a node does.
    pub fn producer(&self, value: Value) -> Option<Node> {
        if let Def::Result(node, _) = self.values[value].def { Some(node) } else { None }
    }

    /// The number, if the value is a constant of rank 0.
    pub fn as_number(&self, value: Value) -> Option<f64> {
        match self.values[value].def {
            Def::Const(c) if self.values[value].ty.rank() == 0 => Some(self.consts[c].data[0].as_f64()),
            _ => None,
        }
    }

    /// Creates a node without putting it into a region; its result types are inferred.
    pub fn create_node(
        &mut self,
        op: Op,
        operands: Vec<Option<Value>>,
        mut attrs: Attrs,
        regions: Vec<Region>,
        source: Option<String>,
    ) -> Result<Node, Violation> {
        let def = op.def();
        attrs.sort_by(def.attrs);
        let mut operands = operands;
        while !def.is_variadic() && operands.len() < def.operands.len() {
            operands.push(None);
        }
        let types = crate::verify::infer(self, op, &operands, &attrs, &regions)?;
        let node = self.nodes.next_key();
        let results = types
            .into_iter()
            .enumerate()
            .map(|(n, ty)| self.add_value(ty, Def::Result(node, n as u32), None))
            .collect();
        Ok(self.nodes.push(NodeData { op, operands, attrs, results, regions, source }))
    }

    /// Appends a node to a region; returns its results.
    pub fn append<V: Into<Option<Value>>>(
        &mut self,
        region: Region,
        op: Op,
        operands: impl IntoIterator<Item = V>,
        attrs: impl Into<Attrs>,
        source: Option<String>,
    ) -> Result<Vec<Value>, Violation> {
        let operands = operands.into_iter().map(Into::into).collect();
        let node = self.create_node(op, operands, attrs.into(), vec![], source)?;
        self.regions[region].nodes.push(node);
        Ok(self.nodes[node].results.clone())
    }

    /// Makes every use of `from`, in operands and in results of regions, a use of `to`.
    pub fn replace_uses(&mut self, replacements: &HashMap<Value, Value>) {
        let resolve = |v: &mut Value| {
            // A replacement may itself have been replaced.
            let mut left = replacements.len();
            while let Some(to) = replacements.get(v).filter(|_| left > 0) {
                *v = *to;
                left -= 1;
            }
        };
        for node in self.nodes.values_mut() {
            node.operands.iter_mut().flatten().for_each(resolve);
        }
        for region in self.regions.values_mut() {
            region.results.iter_mut().for_each(resolve);
        }
    }

    /// All regions reachable from the entries, outer before inner.
    pub fn live_regions(&self) -> Vec<Region> {
        self.reachable(self.entries.iter().map(|e| e.body))
    }

    /// The region and those inside it, outer before inner.
    pub fn regions_in(&self, region: Region) -> Vec<Region> {
        self.reachable([region])
    }

    /// The states that nodes of the region and of those inside it name.
    pub fn states_in(&self, region: Region) -> Vec<State> {
        let regions = self.regions_in(region);
        let nodes = regions.iter().flat_map(|r| &self.regions[*r].nodes).map(|node| &self.nodes[*node]);
        let named = nodes.filter(|data| data.op.has_effect()).filter_map(|data| data.attrs.name("state"));
        let names: HashSet<&str> = named.collect();
        self.states.iter().filter(|(_, s)| names.contains(s.name.as_str())).map(|(id, _)| id).collect()
    }

    fn reachable(&self, from: impl IntoIterator<Item = Region>) -> Vec<Region> {
        let mut seen = HashSet::new();
        let mut found: Vec<Region> = from.into_iter().filter(|r| seen.insert(*r)).collect();
        let mut at = 0;
        while at < found.len() {
            for node in &self.regions[found[at]].nodes {
                found.extend(self.nodes[*node].regions.iter().filter(|r| seen.insert(**r)));
            }
            at += 1;
        }
        found
    }

    /// All nodes reachable from the entries, in order of execution within a region.
    pub fn live_nodes(&self) -> Vec<Node> {
        self.live_regions().into_iter().flat_map(|r| self.regions[r].nodes.clone()).collect()
    }

    /// Number of uses of each value by live nodes and as results of live regions.
    pub fn use_counts(&self) -> HashMap<Value, usize> {
        let mut counts = HashMap::new();
        for region in self.live_regions() {
            let data = &self.regions[region];
            let operands = data.nodes.iter().flat_map(|n| self.nodes[*n].operands.iter().flatten());
            for v in operands.chain(&data.results) {
                *counts.entry(*v).or_insert(0) += 1;
            }
        }
        counts
    }

    /// The name of a value without the sign: that of an input of an entry is the input's name.
    pub fn name_of(&self, value: Value) -> String {
        match &self.values[value].label {
            Label::Number(n) => n.to_string(),
            Label::Name(n) => n.clone(),
        }
    }

    /// The text of a value as an operand: `%17`, `%points` or a number.
    pub fn show(&self, value: Value) -> String {
        crate::text::operand(self, value)
    }
}

/// A literal of type f32 is held as the f64 of that value; of narrower types as it was written.
fn rounded(elem: ElemType, literal: Literal) -> Literal {
    match literal {
        Literal::Float(bits) if elem == ElemType::F32 => Literal::Float((f64::from_bits(bits) as f32 as f64).to_bits()),
        other => other,
    }
}

impl NodeData {
    /// Operand `n`; the verifier has made sure that it is there.
    ///
    /// # Panics
    /// When the operand is absent.
    pub fn operand(&self, n: usize) -> Value {
        self.operands[n].unwrap_or_else(|| panic!("{} has no operand {n}", self.op))
    }

    /// Operand `n` if it is there.
    pub fn optional(&self, n: usize) -> Option<Value> {
        self.operands.get(n).copied().flatten()
    }

    /// The operands that are there.
    pub fn inputs(&self) -> impl Iterator<Item = Value> + '_ {
        self.operands.iter().flatten().copied()
    }

    /// The only result.
    ///
    /// # Panics
    /// When the node has another number of results.
    pub fn result(&self) -> Value {
        assert_eq!(self.results.len(), 1, "{} has {} results", self.op, self.results.len());
        self.results[0]
    }
}
