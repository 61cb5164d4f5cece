//! What the runtime's codec needs of a circuit, as its tables.
//!
//! Weights are normalised on the way: each becomes the share that the child has of its parent's mass, which changes no
//! probability of a row but by the mass of all. Where no two scopes cross, the scopes are regions. A region of more
//! than two is cut in two until none is, so a vtree is not asked for, and where there is one nothing differs: it cuts
//! scopes as these are cut.

use kiln_ir::Module;
use kiln_ir::circuit::{Circuit, Domain, Kind, NodeId, Scopes};
use kiln_runtime::codec::{Graph, Inner, Node, Region, Section, Structure, Tables, Variable, encode_section};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The section for a circuit: its tables, or why rows cannot be coded with it.
pub fn section(circuit: &Circuit) -> Section {
    let mut variables = vec![];
    for (v, domain) in circuit.variables.iter().enumerate() {
        match domain {
            Domain::Discrete(values) => variables.push(*values),
            Domain::Real => {
                return Err(format!("variable {v} is continuous: a code needs probabilities, not densities"));
            }
        }
    }
    let scopes = Scopes::of(circuit).ok_or("the scopes of its nodes are too many to tell")?;
    // The verifier says more about these.
    let is_smooth = |n: &NodeId| match circuit.kind(*n) {
        Kind::Sum(children, _) => children.iter().all(|c| scopes.id(*c) == scopes.id(*n)),
        _ => true,
    };
    if let Some(n) = scopes.overlapping.first().copied().or_else(|| circuit.nodes().find(|n| !is_smooth(n))) {
        return Err(format!("{}: the circuit is not smooth and decomposable", circuit.place(n)));
    }
    let source = Source::new(circuit, &scopes, variables)?;
    Ok(match Tree::of(&source) {
        Some(tree) => regions(&source, &tree),
        None => graph(&source),
    })
}

/// The section for a module's circuit; None if it has none.
pub fn of_module(module: &Module) -> Option<Section> {
    let mut circuits = module.circuits.values();
    Some(match (circuits.next()?, circuits.next()) {
        (circuit, None) => section(circuit),
        _ => Err("the model has several".to_owned()),
    })
}

/// The bytes of that section, and what a user should know of it.
///
/// They are made of the module as imported, so that streams outlive a change of the passes.
pub fn encode(module: &Module) -> Option<(Vec<u8>, Option<String>)> {
    let section = of_module(module)?;
    let refused = |reason: String| encode_section(&Err(reason)).unwrap_or_default();
    Some((encode_section(&section).unwrap_or_else(refused), note(&section)))
}

/// What a user should know of a section.
pub fn note(section: &Section) -> Option<String> {
    match section {
        Err(reason) => Some(format!("the circuit does not code rows: {reason}")),
        Ok(Tables { structure: Structure::Graph(_), .. }) => Some(
            "the circuit is not structured-decomposable: coding rows evaluates all of it for each variable".to_owned(),
        ),
        Ok(_) => None,
    }
}

/// A circuit without the nodes that are 0 for every row, with its weights and distributions as probabilities.
struct Source<'a> {
    circuit: &'a Circuit,
    scopes: &'a Scopes,
    values: Vec<u32>,
    /// By node: the logarithm of its value where nothing is known. Nodes without a finite one are left out.
    mass: Vec<f64>,
    /// By node: whether a way of positive weights leads to it from the root.
    live: Vec<bool>,
}

impl<'a> Source<'a> {
    fn new(circuit: &'a Circuit, scopes: &'a Scopes, values: Vec<u32>) -> Result<Source<'a>, String> {
        let mut mass: Vec<f64> = Vec::with_capacity(circuit.len());
        let of = |mass: &[f64], n: NodeId| mass[n.as_u32() as usize];
        for n in circuit.nodes() {
            mass.push(match circuit.kind(n) {
                Kind::Input { var, dist } => {
                    let table = circuit.distribution(dist).table(values[var as usize]);
                    let table = table.ok_or_else(|| format!("{}: its distribution is continuous", circuit.place(n)))?;
                    sum_of_logs(table.into_iter())
                }
                Kind::Product(children) => children.iter().map(|c| of(&mass, *c)).sum(),
                Kind::Sum(children, weights) => {
                    sum_of_logs(children.iter().zip(weights).map(|(c, w)| of(&mass, *c) + w))
                }
            });
        }
        let mut source = Source { circuit, scopes, values, mass, live: vec![false; circuit.len()] };
        if !source.of(circuit.root()).is_finite() {
            return Err("no row has a probability above 0, or a finite one".to_owned());
        }
        source.live[circuit.len() - 1] = true;
        for n in circuit.nodes().rev() {
            if source.live[n.as_u32() as usize] {
                let children: Vec<NodeId> = match circuit.kind(n) {
                    Kind::Sum(..) => source.terms(n).map(|(child, _)| child).collect(),
                    _ => circuit.children(n).to_vec(),
                };
                children.iter().for_each(|c| source.live[c.as_u32() as usize] = true);
            }
        }
        Ok(source)
    }

    fn of(&self, n: NodeId) -> f64 {
        self.mass[n.as_u32() as usize]
    }

    /// Live nodes, children first.
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.circuit.nodes().filter(|n| self.live[n.as_u32() as usize])
    }

    /// The children of a sum that can be other than 0, with their shares of it.
    fn terms(&self, n: NodeId) -> impl Iterator<Item = (NodeId, f64)> {
        let terms = self.circuit.children(n).iter().zip(self.circuit.log_weights(n));
        let share = move |(child, weight): (&NodeId, &f64)| (*child, libm::exp(weight + self.of(*child) - self.of(n)));
        terms.map(share).filter(|(_, share)| *share > 0.0)
    }

    /// The only child of a node with the same values.
    fn alias(&self, n: NodeId) -> Option<NodeId> {
        match self.circuit.kind(n) {
            Kind::Product([child]) => Some(*child),
            Kind::Sum(..) => {
                let mut terms = self.terms(n);
                let (first, _) = terms.next()?;
                terms.next().is_none().then_some(first)
            }
            _ => None,
        }
    }

    /// The probabilities of an input.
    fn row(&self, n: NodeId) -> Vec<f64> {
        let Kind::Input { var, dist } = self.circuit.kind(n) else { return vec![] };
        let table = self.circuit.distribution(dist).table(self.values[var as usize]).unwrap_or_default();
        table.iter().map(|log| libm::exp(log - self.of(n))).collect()
    }
}

/// ln of the sum of e^x.
fn sum_of_logs(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() { largest } else { largest + libm::log(logs.map(|x| libm::exp(x - largest)).sum()) }
}

/// The distributions of every variable, each once.
struct Leaves {
    variables: Vec<Variable>,
    known: HashMap<(u32, Vec<u64>), u32>,
}

impl Leaves {
    fn new(values: &[u32]) -> Leaves {
        let variable = |k: &u32| Variable { values: *k, rows: vec![] };
        Leaves { variables: values.iter().map(variable).collect(), known: HashMap::new() }
    }

    fn add(&mut self, variable: u32, row: Vec<f64>) -> u32 {
        let of_variable = &mut self.variables[variable as usize];
        let next = (of_variable.rows.len() / of_variable.values as usize) as u32;
        let key = (variable, row.iter().map(|p| p.to_bits()).collect());
        let n = *self.known.entry(key).or_insert(next);
        if n == next {
            of_variable.rows.extend(row);
        }
        n
    }

    /// Gives variables that the circuit leaves out a distribution, the same for each value, and names them.
    fn fill(&mut self) -> Vec<u32> {
        let open = (0..self.variables.len() as u32).filter(|v| self.variables[*v as usize].rows.is_empty());
        let open: Vec<u32> = open.collect();
        for v in &open {
            let values = self.variables[*v as usize].values;
            self.add(*v, vec![1.0 / f64::from(values); values as usize]);
        }
        open
    }
}

/// The scopes of a circuit in which none crosses another, cut until each is a variable or two others.
struct Tree {
    /// By region, children before parents.
    parents: Vec<Option<u32>>,
    children: Vec<Option<[u32; 2]>>,
    /// Of regions of one variable.
    variables: Vec<Option<u32>>,
    /// By scope.
    regions: HashMap<u32, u32>,
}

impl Tree {
    /// None if scopes cross.
    fn of(source: &Source<'_>) -> Option<Tree> {
        // Scopes with a node each, the largest first.
        let mut seen: HashSet<u32> = HashSet::new();
        let mut scopes: Vec<(NodeId, u32)> = vec![];
        for n in source.nodes() {
            if seen.insert(source.scopes.id(n)) {
                // As many as there are at most without crossing.
                if scopes.len() >= 2 * source.values.len() {
                    return None;
                }
                scopes.push((n, source.scopes.intervals(n).iter().map(|(from, to)| to - from).sum()));
            }
        }
        scopes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let mut tree = Tree { parents: vec![], children: vec![], variables: vec![], regions: HashMap::new() };
        let mut cover = Cover::new(source.values.len(), scopes.len());
        // The smallest first: all below a scope have regions when it gets its own.
        for (s, (n, size)) in scopes.iter().enumerate().rev() {
            let intervals = source.scopes.intervals(*n);
            let below = cover.join(s, intervals, *size, &scopes)?;
            let region = if below.is_empty() {
                tree.region(None, intervals.first().map(|(rank, _)| source.scopes.variable(*rank)))
            } else {
                let id = |b: &usize| source.scopes.id(scopes[*b].0);
                let regions: Vec<u32> = below.iter().map(|b| tree.regions[&id(b)]).collect();
                tree.cut(&regions)
            };
            tree.regions.insert(source.scopes.id(*n), region);
        }
        Some(tree)
    }

    fn region(&mut self, children: Option<[u32; 2]>, variable: Option<u32>) -> u32 {
        let n = self.parents.len() as u32;
        self.parents.push(None);
        self.children.push(children);
        self.variables.push(variable);
        children.iter().flatten().for_each(|c| self.parents[*c as usize] = Some(n));
        n
    }

    /// A region over all of these.
    fn cut(&mut self, regions: &[u32]) -> u32 {
        match regions {
            [one] => *one,
            _ => {
                let (left, right) = regions.split_at(regions.len() / 2);
                let children = [self.cut(left), self.cut(right)];
                self.region(Some(children), None)
            }
        }
    }
}

/// The largest scopes met so far, by where their intervals begin. Each interval is looked at when its scope is joined to
/// a larger one and never again, so long chains of scopes cost no more than they have intervals.
struct Cover {
    /// By rank: the scope of which an interval begins there, and where that ends.
    at: Vec<Option<(usize, u32)>>,
    /// By scope: whether it is within a larger one that was met.
    inside: Vec<bool>,
}

impl Cover {
    fn new(variables: usize, scopes: usize) -> Cover {
        Cover { at: vec![None; variables], inside: vec![false; scopes] }
    }

    /// The scopes of which a new one is made, rising; None if it crosses one.
    fn join(&mut self, s: usize, intervals: &[(u32, u32)], size: u32, scopes: &[(NodeId, u32)]) -> Option<Vec<usize>> {
        let mut below: Vec<usize> = vec![];
        for (from, to) in intervals {
            let mut rank = *from;
            while rank < *to {
                let Some((scope, end)) = self.at[rank as usize] else {
                    rank += 1;
                    continue;
                };
                if self.inside[scope] || end > *to {
                    return None;
                }
                below.push(scope);
                rank = end;
            }
            self.at[*from as usize] = Some((s, *to));
        }
        below.sort_unstable();
        below.dedup();
        below.iter().for_each(|b| self.inside[*b] = true);
        // A scope with an interval elsewhere has too many variables.
        let all: u64 = below.iter().map(|b| u64::from(scopes[*b].1)).sum();
        (below.is_empty() || all <= u64::from(size)).then_some(below)
    }
}

/// Marks the number of a sum until all mixtures of its region are known.
const SUM: u32 = 1 << 31;
/// A product that so many sums share is computed once.
const SHARED: u32 = 3;

struct Regions<'a> {
    source: &'a Source<'a>,
    tree: &'a Tree,
    leaves: Leaves,
    inner: Vec<Inner>,
    /// By node of the circuit: the node that has its values.
    targets: Vec<NodeId>,
    /// By node of the circuit: its number in its region.
    places: Vec<u32>,
    /// Products that are nodes, by region and factors.
    products: HashMap<(u32, [u32; 2]), u32>,
}

fn regions(source: &Source<'_>, tree: &Tree) -> Tables {
    let mut targets: Vec<NodeId> = source.circuit.nodes().collect();
    for n in source.nodes() {
        if let Some(child) = source.alias(n) {
            targets[index(n)] = targets[index(child)];
        }
    }
    let inner = tree.children.iter().map(|c| Inner { children: c.unwrap_or_default(), ..Inner::default() });
    let mut regions = Regions {
        source,
        tree,
        leaves: Leaves::new(&source.values),
        inner: inner.collect(),
        places: vec![0; targets.len()],
        targets,
        products: HashMap::new(),
    };
    let (is_sum, is_node) = regions.roles();
    for n in source.nodes().filter(|n| regions.targets[index(*n)] == *n).collect::<Vec<_>>() {
        regions.place(n, is_sum[index(n)], is_node[index(n)]);
    }
    regions.finish()
}

fn index(n: NodeId) -> usize {
    n.as_u32() as usize
}

impl Regions<'_> {
    /// Which sums are sums of nodes rather than mixtures of products, and which products are nodes: the factors of
    /// others, the terms of sums, and the root.
    fn roles(&self) -> (Vec<bool>, Vec<bool>) {
        let (source, count) = (self.source, self.targets.len());
        let target = |n: NodeId| self.targets[index(n)];
        let is_product = |n: NodeId| matches!(source.circuit.kind(n), Kind::Product(_));
        let sums = || source.nodes().filter(|n| target(*n) == *n && matches!(source.circuit.kind(*n), Kind::Sum(..)));
        let mut uses = vec![0u32; count];
        sums().for_each(|n| source.terms(n).for_each(|(child, _)| uses[index(target(child))] += 1));
        let (mut is_sum, mut is_node) = (vec![false; count], vec![false; count]);
        is_node[index(target(source.circuit.root()))] = true;
        for n in sums() {
            let terms: Vec<NodeId> = source.terms(n).map(|(child, _)| target(child)).collect();
            let shared = terms.iter().filter(|t| uses[index(**t)] >= SHARED).count();
            if 2 * shared > terms.len() || !terms.iter().all(|t| is_product(*t)) {
                is_sum[index(n)] = true;
                terms.iter().for_each(|t| is_node[index(*t)] = true);
            }
        }
        for n in source.nodes().filter(|n| is_product(*n)) {
            source.circuit.children(n).iter().for_each(|c| is_node[index(target(*c))] = true);
        }
        (is_sum, is_node)
    }

    fn region(&self, n: NodeId) -> u32 {
        self.tree.regions[&self.source.scopes.id(n)]
    }

    /// Gives a node its number; its children have theirs.
    fn place(&mut self, n: NodeId, is_sum: bool, is_node: bool) {
        let region = self.region(n);
        let terms: Vec<(NodeId, f64)> = match self.source.circuit.kind(n) {
            Kind::Sum(..) => self.source.terms(n).map(|(c, share)| (self.targets[index(c)], share)).collect(),
            _ => vec![],
        };
        self.places[index(n)] = match (self.tree.variables[region as usize], self.source.circuit.kind(n)) {
            (Some(variable), Kind::Sum(..)) => {
                let row = self.mixed_row(variable, &terms);
                self.leaves.add(variable, row)
            }
            (Some(variable), _) => self.leaves.add(variable, self.source.row(n)),
            (None, Kind::Sum(..)) if is_sum => {
                let terms: Vec<(u32, f64)> = terms.iter().map(|(t, share)| (self.places[index(*t)], *share)).collect();
                let inner = &mut self.inner[region as usize];
                inner.terms.extend(terms.iter().map(|(t, _)| t));
                inner.sum_weights.extend(terms.iter().map(|(_, share)| share));
                inner.sum_ends.push(inner.terms.len() as u32);
                SUM | (inner.sum_ends.len() - 1) as u32
            }
            (None, Kind::Sum(..)) => {
                let factors: Vec<[u32; 2]> = terms.iter().map(|(t, _)| self.factors(*t)).collect();
                self.mixture(region, &factors, terms.iter().map(|(_, share)| *share))
            }
            (None, _) if is_node => {
                let factors = self.factors(n);
                self.product(region, factors)
            }
            // Written where it is used.
            (None, _) => return,
        };
    }

    fn mixed_row(&self, variable: u32, terms: &[(NodeId, f64)]) -> Vec<f64> {
        let of_variable = &self.leaves.variables[variable as usize];
        let values = of_variable.values as usize;
        let mut row = vec![0.0; values];
        for (term, share) in terms {
            let other = &of_variable.rows[self.places[index(*term)] as usize * values..][..values];
            row.iter_mut().zip(other).for_each(|(own, p)| *own += share * p);
        }
        row
    }

    fn mixture(&mut self, region: u32, factors: &[[u32; 2]], weights: impl Iterator<Item = f64>) -> u32 {
        let inner = &mut self.inner[region as usize];
        inner.factors.extend(factors);
        inner.mix_weights.extend(weights);
        inner.mix_ends.push(inner.factors.len() as u32);
        (inner.mix_ends.len() - 1) as u32
    }

    fn product(&mut self, region: u32, factors: [u32; 2]) -> u32 {
        if let Some(known) = self.products.get(&(region, factors)) {
            return *known;
        }
        let node = self.mixture(region, &[factors], std::iter::once(1.0));
        self.products.insert((region, factors), node);
        node
    }

    /// What a product multiplies of each of its region's two children. Products in between are made.
    fn factors(&mut self, product: NodeId) -> [u32; 2] {
        let region = self.region(product);
        let children = self.source.circuit.children(product).iter().map(|c| self.targets[index(*c)]);
        let mut open: BTreeMap<u32, u32> = children.map(|c| (self.region(c), self.places[index(c)])).collect();
        let mut halves: HashMap<u32, u32> = HashMap::new();
        let mut factors = [0; 2];
        // The smallest first, so that both halves of a region are there before it.
        while let Some((part, node)) = open.pop_first() {
            let Some(parent) = self.tree.parents[part as usize] else { break };
            let side = usize::from(self.inner[parent as usize].children[1] == part);
            if parent == region {
                factors[side] = node;
            } else if let Some(other) = halves.remove(&parent) {
                let both = if side == 1 { [other, node] } else { [node, other] };
                open.insert(parent, self.product(parent, both));
            } else {
                halves.insert(parent, node);
            }
        }
        factors
    }

    fn finish(mut self) -> Tables {
        let mixes: Vec<u32> = self.inner.iter().map(|i| i.mix_ends.len() as u32).collect();
        let number = |region: u32, node: u32| {
            if node & SUM == 0 { node } else { mixes[region as usize] + (node ^ SUM) }
        };
        for (r, inner) in self.inner.iter_mut().enumerate() {
            let [a, b] = inner.children;
            inner.factors.iter_mut().for_each(|f| *f = [number(a, f[0]), number(b, f[1])]);
            inner.terms.iter_mut().for_each(|t| *t = number(r as u32, *t));
        }
        heavy_first(&mut self.inner, &self.tree.variables);
        let root = self.targets[index(self.source.circuit.root())];
        let mut last = number(self.region(root), self.places[index(root)]);
        let region = |(variable, inner): (&Option<u32>, Inner)| match variable {
            Some(variable) => Region::Leaf(*variable),
            None => Region::Inner(Box::new(inner)),
        };
        let mut regions: Vec<Region> = self.tree.variables.iter().zip(self.inner).map(region).collect();
        if let [Region::Leaf(variable)] = regions[..] {
            // The root is the only node of its region.
            let of_variable = &mut self.leaves.variables[variable as usize];
            let values = of_variable.values as usize;
            of_variable.rows = of_variable.rows[last as usize * values..][..values].to_vec();
            last = 0;
        }
        for variable in self.leaves.fill() {
            let whole = regions.len() as u32 - 1;
            regions.push(Region::Leaf(variable));
            regions.push(Region::Inner(Box::new(Inner {
                children: [whole, whole + 1],
                mix_ends: vec![1],
                mix_weights: vec![1.0],
                factors: vec![[last, 0]],
                ..Inner::default()
            })));
            last = 0;
        }
        Tables { variables: self.leaves.variables, structure: Structure::Regions(regions) }
    }
}

/// Puts the child first along which most is saved: what lies on the path of first children is the same for all rows.
fn heavy_first(inner: &mut [Inner], variables: &[Option<u32>]) {
    let mut saved = vec![0u64; inner.len()];
    for r in 0..inner.len() {
        if variables[r].is_some() {
            continue;
        }
        let [a, b] = inner[r].children.map(|c| saved[c as usize]);
        let own = &mut inner[r];
        if b > a {
            own.children.reverse();
            own.factors.iter_mut().for_each(|f| f.reverse());
        }
        saved[r] = a.max(b) + (own.factors.len() + own.terms.len()) as u64;
    }
}

/// The circuit as it is.
fn graph(source: &Source<'_>) -> Tables {
    let mut leaves = Leaves::new(&source.values);
    let (mut graph, mut places) = (Graph::default(), vec![0u32; source.circuit.len()]);
    for n in source.nodes() {
        places[index(n)] = graph.nodes.len() as u32;
        let node = match source.circuit.kind(n) {
            Kind::Input { var, .. } => Node::Input { variable: var, row: leaves.add(var, source.row(n)) },
            Kind::Product(children) => {
                graph.children.extend(children.iter().map(|c| places[index(*c)]));
                graph.weights.resize(graph.children.len(), 1.0);
                Node::Product { end: graph.children.len() as u32 }
            }
            Kind::Sum(..) => {
                for (child, share) in source.terms(n) {
                    graph.children.push(places[index(child)]);
                    graph.weights.push(share);
                }
                Node::Sum { end: graph.children.len() as u32 }
            }
        };
        graph.nodes.push(node);
    }
    let whole = graph.nodes.len() as u32 - 1;
    let open = leaves.fill();
    if !open.is_empty() {
        graph.nodes.extend(open.iter().map(|v| Node::Input { variable: *v, row: 0 }));
        graph.children.extend(whole..graph.nodes.len() as u32);
        graph.weights.resize(graph.children.len(), 1.0);
        graph.nodes.push(Node::Product { end: graph.children.len() as u32 });
    }
    Tables { variables: leaves.variables, structure: Structure::Graph(graph) }
}
