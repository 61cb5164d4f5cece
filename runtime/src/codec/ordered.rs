//! The distribution of each variable given those before it, for structured circuits.
//!
//! Regions are coded depth first. Of each region two vectors are known, up to a factor: `outer`, what each node's value
//! counts for in the whole given what was coded outside, and `inner`, the nodes' values once all in the region is
//! coded. Going down to a child, `outer` of the child follows from that of the region and `inner` of the children
//! before; going up, `inner` follows from that of the children. So each product is looked at three times, whatever the
//! number of variables. On the path of first children, which the order makes as heavy as it
//! can be, `outer` is the same for all rows.
//!
//! Several rows go side by side, one a lane. No lane's numbers depend on another's. A row's common factor is taken out
//! of a vector as a power of two, so that nothing underflows, however improbable the row. Known values leave most nodes
//! of a deterministic circuit at 0; products with such a factor are passed over.

use super::frequencies::Alphabet;
use super::sparse::{LANES, Lanes, Mut, Store, View, ZERO, behind, times};
use super::tables::{Inner, Region, Variable};

/// Products in the order of their first factors.
struct ByFirst {
    /// Node `n` of the first child has the products from `ends[n - 1]` to `ends[n]`.
    ends: Vec<u32>,
    products: Vec<Product>,
}

#[derive(Clone, Copy, Default)]
struct Product {
    mix: u32,
    second: u32,
    weight: f64,
}

/// What is done for each group of rows, with a place for each region's vectors.
pub(super) struct Program {
    steps: Vec<Step>,
    /// Nodes of each region.
    counts: Vec<usize>,
    outer_at: Vec<usize>,
    inner_at: Vec<usize>,
    /// By region on the path of first children: its products by their first factor.
    by_first: Vec<Option<ByFirst>>,
    /// `outer` of that path, before all others: places with numbers, and where they end.
    fixed: Vec<(usize, f64)>,
    fixed_len: usize,
    outer_len: usize,
    inner_len: usize,
    order: Vec<u32>,
    visits: u64,
}

#[derive(Clone, Copy)]
enum Step {
    /// `outer` of a region's child, by its place among the children.
    Down {
        region: usize,
        child: usize,
    },
    Code {
        region: usize,
    },
    Up {
        region: usize,
    },
}

impl Program {
    /// The program for checked tables.
    pub(super) fn new(variables: &[Variable], regions: &[Region]) -> Program {
        let count = |region: &Region| match region {
            Region::Leaf(v) => variables[*v as usize].count(),
            Region::Inner(inner) => inner.count(),
        };
        let counts: Vec<usize> = regions.iter().map(count).collect();
        let root = regions.len() - 1;
        let mut program = Program {
            steps: vec![],
            counts: vec![],
            outer_at: vec![0; regions.len()],
            inner_at: vec![0; regions.len()],
            by_first: vec![],
            fixed: vec![],
            fixed_len: 0,
            outer_len: 0,
            inner_len: 0,
            order: vec![],
            visits: 0,
        };
        let is_fixed = program.fix(regions, &counts);
        // Whether the values are asked for once the region is coded.
        let mut needed = vec![false; regions.len()];
        for (r, region) in regions.iter().enumerate().rev() {
            program.outer_len = program.outer_len.max(behind(program.outer_at[r], counts[r]));
            program.inner_len = program.inner_len.max(behind(program.inner_at[r], counts[r]));
            let Region::Inner(inner) = region else { continue };
            let below = if is_fixed[r] { program.fixed_len } else { behind(program.outer_at[r], counts[r]) };
            let [first, second] = inner.children.map(|c| c as usize);
            (needed[first], needed[second]) = (true, needed[r]);
            program.inner_at[first] = behind(program.inner_at[r], counts[r]);
            program.inner_at[second] = behind(program.inner_at[first], counts[first]);
            for child in [first, second].into_iter().filter(|c| !is_fixed[*c]) {
                program.outer_at[child] = below;
            }
        }
        // Depth first: a region with the child that is next.
        let mut open = vec![(root, 0)];
        while let Some((r, next)) = open.pop() {
            match &regions[r] {
                Region::Leaf(variable) => {
                    program.steps.push(Step::Code { region: r });
                    program.order.push(*variable);
                }
                Region::Inner(inner) => match inner.children.get(next) {
                    Some(child) => {
                        open.push((r, next + 1));
                        open.push((*child as usize, 0));
                        if !is_fixed[*child as usize] {
                            program.steps.push(Step::Down { region: r, child: next });
                        }
                    }
                    None if needed[r] => program.steps.push(Step::Up { region: r }),
                    None => {}
                },
            }
        }
        let inner = |r: usize| if let Region::Inner(inner) = &regions[r] { Some(inner) } else { None };
        let (mixed, summed) = (|i: &Inner| i.mix_weights.len() as u64, |i: &Inner| i.terms.len() as u64);
        let cost = |step: &Step| match step {
            Step::Down { region, child } => {
                let child = inner(*region).and_then(|i| inner(i.children[*child] as usize));
                inner(*region).map_or(0, |i| mixed(i)) + child.map_or(0, |i| summed(i))
            }
            Step::Up { region } => inner(*region).map_or(0, |i| mixed(i) + summed(i)),
            Step::Code { .. } => 0,
        };
        program.visits = program.steps.iter().map(cost).sum();
        let by_first = |(region, fixed): (&Region, &bool)| match region {
            Region::Inner(inner) if *fixed => Some(ByFirst::new(inner, counts[inner.children[0] as usize])),
            _ => None,
        };
        program.by_first = regions.iter().zip(&is_fixed).map(by_first).collect();
        program.counts = counts;
        program
    }

    /// Computes the path of first children.
    fn fix(&mut self, regions: &[Region], counts: &[usize]) -> Vec<bool> {
        let mut is_fixed = vec![false; regions.len()];
        let mut r = regions.len() - 1;
        let mut store = Store::new(counts[r]);
        store.view_mut(0).add(counts[r] - 1, &[1.0; LANES]);
        loop {
            is_fixed[r] = true;
            self.outer_at[r] = self.fixed_len;
            let mut own = store.view_mut(0);
            if let Region::Inner(inner) = &regions[r] {
                spread(inner, &mut own);
            }
            let own = own.view();
            let numbers = own.places(0, counts[r]).filter_map(|at| Some((self.fixed_len + at, own.get(at)?[0])));
            self.fixed.extend(numbers);
            self.fixed_len = behind(self.fixed_len, counts[r]);
            let Region::Inner(inner) = &regions[r] else { return is_fixed };
            let child = inner.children[0] as usize;
            let mut below = Store::new(counts[child]);
            down_first(inner, own, &mut below.view_mut(0));
            (r, store) = (child, below);
        }
    }

    /// The variables in the order in which they are coded.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Products and terms of sums that are looked at for one row.
    pub(super) fn visits(&self) -> u64 {
        self.visits
    }

    pub(super) fn start(&self) -> State {
        let mut outer = Store::new(self.outer_len);
        let mut fixed = outer.view_mut(0);
        self.fixed.iter().for_each(|(at, number)| fixed.add(*at, &[*number; LANES]));
        State { outer, inner: Store::new(self.inner_len), next: 0, leaf: 0 }
    }
}

impl ByFirst {
    fn new(inner: &Inner, firsts: usize) -> ByFirst {
        // First how many each has, then where they start, which moves to where they end.
        let mut ends = vec![0u32; firsts + 1];
        inner.factors.iter().for_each(|[a, _]| ends[*a as usize + 1] += 1);
        for n in 0..firsts {
            ends[n + 1] += ends[n];
        }
        let mut products = vec![Product::default(); inner.factors.len()];
        let mut start = 0;
        for (mix, end) in inner.mix_ends.iter().enumerate() {
            let range = start..*end as usize;
            start = range.end;
            for (weight, [a, b]) in inner.mix_weights[range.clone()].iter().zip(&inner.factors[range]) {
                let place = &mut ends[*a as usize];
                products[*place as usize] = Product { mix: mix as u32, second: *b, weight: *weight };
                *place += 1;
            }
        }
        ends.pop();
        ByFirst { ends, products }
    }

    #[inline(always)]
    fn of(&self, first: usize) -> &[Product] {
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.products[start as usize..self.ends[first] as usize]
    }
}

/// Where a group of rows has got to.
pub(super) struct State {
    outer: Store,
    inner: Store,
    next: usize,
    leaf: usize,
}

impl State {
    /// Starts a group of rows.
    pub(super) fn begin(&mut self) {
        self.next = 0;
    }

    /// Goes on to the next variable: what each of its distributions counts for. There must be one.
    pub(super) fn enter(&mut self, program: &Program, regions: &[Region]) -> &[Lanes] {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { self.advance_avx2(program, regions) };
            return self.entered(program);
        }
        self.advance(program, regions);
        self.entered(program)
    }

    fn entered(&mut self, program: &Program) -> &[Lanes] {
        self.outer.view_mut(program.outer_at[self.leaf]).dense(program.counts[self.leaf])
    }

    /// The same with wider vectors, and so the same numbers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn advance_avx2(&mut self, program: &Program, regions: &[Region]) {
        self.advance(program, regions);
    }

    #[inline(always)]
    fn advance(&mut self, program: &Program, regions: &[Region]) {
        while let Some(step) = program.steps.get(self.next) {
            self.next += 1;
            match *step {
                Step::Down { region, child } => self.down(program, regions, region, child),
                Step::Up { region } => self.up(program, regions, region),
                Step::Code { region } => {
                    self.leaf = region;
                    return;
                }
            }
        }
    }

    /// Takes the values of the variable that was entered last.
    pub(super) fn observe(&mut self, program: &Program, alphabet: &Alphabet, values: &[u32; LANES]) {
        let mut inner = self.inner.view_mut(program.inner_at[self.leaf]);
        inner.clear(program.counts[self.leaf]);
        for row in 0..program.counts[self.leaf] {
            inner.add(row, &values.map(|value| alphabet.probability(row as u32, value)));
        }
    }

    #[inline(always)]
    fn down(&mut self, program: &Program, regions: &[Region], r: usize, j: usize) {
        let Region::Inner(inner) = &regions[r] else { return };
        let [first, child] = [inner.children[0] as usize, inner.children[j] as usize];
        // A child's vector lies behind its parent's.
        let (own, mut below) = self.outer.split_before(program.outer_at[r], program.outer_at[child]);
        let first = self.inner.view(program.inner_at[first]);
        below.clear(program.counts[child]);
        match &program.by_first[r] {
            _ if j == 0 => down_first(inner, own, &mut below),
            Some(by_first) => down_second_by_first(by_first, own, first, &mut below),
            None => down_second(inner, own, first, &mut below),
        }
        below.rescale(program.counts[child]);
        if let Region::Inner(inner) = &regions[child] {
            spread(inner, &mut below);
        }
    }

    #[inline(always)]
    fn up(&mut self, program: &Program, regions: &[Region], r: usize) {
        let Region::Inner(inner) = &regions[r] else { return };
        let [start, first, second] =
            [r, inner.children[0] as usize, inner.children[1] as usize].map(|r| program.inner_at[r]);
        let outer = self.outer.view(program.outer_at[r]);
        // The children's vectors lie behind.
        let (mut own, children) = self.inner.split_behind(start, first);
        let (first, second) = (children, children.from(second - first));
        own.clear(inner.count());
        match &program.by_first[r] {
            Some(by_first) => mix_by_first(by_first, first, second, &mut own),
            None => mix(inner, outer, first, second, &mut own),
        }
        sum(inner, outer, &mut own);
        own.rescale(inner.count());
    }
}

/// The products of a mixture.
#[inline(always)]
fn products(inner: &Inner, mix: usize) -> impl Iterator<Item = (&f64, &[u32; 2])> {
    let start = mix.checked_sub(1).map_or(0, |before| inner.mix_ends[before]);
    let range = start as usize..inner.mix_ends[mix] as usize;
    inner.mix_weights[range.clone()].iter().zip(&inner.factors[range])
}

/// The terms of a sum.
#[inline(always)]
fn terms(inner: &Inner, sum: usize) -> impl Iterator<Item = (&f64, &u32)> {
    let start = sum.checked_sub(1).map_or(0, |before| inner.sum_ends[before]);
    let range = start as usize..inner.sum_ends[sum] as usize;
    inner.sum_weights[range.clone()].iter().zip(&inner.terms[range])
}

/// What the first child's nodes count for, where the second is open.
#[inline(always)]
fn down_first(inner: &Inner, own: View<'_>, child: &mut Mut<'_>) {
    for n in own.places(0, inner.mix_ends.len()) {
        let Some(outer) = own.get(n) else { continue };
        for (weight, [a, _]) in products(inner, n) {
            child.add(*a as usize, &outer.map(|o| o * weight));
        }
    }
}

/// What the second child's nodes count for, where the first has values.
#[inline(always)]
fn down_second(inner: &Inner, own: View<'_>, first: View<'_>, child: &mut Mut<'_>) {
    for n in own.places(0, inner.mix_ends.len()) {
        let Some(outer) = own.get(n) else { continue };
        for (weight, [a, b]) in products(inner, n) {
            if let Some(first) = first.get(*a as usize) {
                child.add(*b as usize, &times(&outer.map(|o| o * weight), first));
            }
        }
    }
}

/// The same on the path of first children, where all nodes count for something.
#[inline(always)]
fn down_second_by_first(by_first: &ByFirst, own: View<'_>, first: View<'_>, child: &mut Mut<'_>) {
    for a in first.places(0, by_first.ends.len()) {
        let Some(first) = first.get(a) else { continue };
        for product in by_first.of(a) {
            if let Some(outer) = own.get(product.mix as usize) {
                child.add(product.second as usize, &times(&outer.map(|o| o * product.weight), first));
            }
        }
    }
}

/// Hands what sums count for on to their terms.
#[inline(always)]
fn spread(inner: &Inner, own: &mut Mut<'_>) {
    let mixes = inner.mix_ends.len();
    for n in (0..inner.sum_ends.len()).rev() {
        let Some(outer) = own.view().get(mixes + n).copied() else { continue };
        for (weight, term) in terms(inner, n) {
            own.add(*term as usize, &outer.map(|o| o * weight));
        }
    }
}

/// The values of mixtures that count for something. No later number depends on the others.
#[inline(always)]
fn mix(inner: &Inner, outer: View<'_>, first: View<'_>, second: View<'_>, own: &mut Mut<'_>) {
    for n in outer.places(0, inner.mix_ends.len()) {
        let mut value = ZERO;
        for (weight, [a, b]) in products(inner, n) {
            if let (Some(first), Some(second)) = (first.get(*a as usize), second.get(*b as usize)) {
                let term = times(&first.map(|v| v * weight), second);
                value.iter_mut().zip(&term).for_each(|(v, t)| *v += t);
            }
        }
        own.add(n, &keep(&value, outer.get(n)));
    }
}

/// The same on the path of first children.
#[inline(always)]
fn mix_by_first(by_first: &ByFirst, first: View<'_>, second: View<'_>, own: &mut Mut<'_>) {
    for a in first.places(0, by_first.ends.len()) {
        let Some(first) = first.get(a) else { continue };
        for product in by_first.of(a) {
            if let Some(second) = second.get(product.second as usize) {
                own.add(product.mix as usize, &times(&first.map(|v| v * product.weight), second));
            }
        }
    }
}

/// The values of sums that count for something.
#[inline(always)]
fn sum(inner: &Inner, outer: View<'_>, own: &mut Mut<'_>) {
    let mixes = inner.mix_ends.len();
    for n in outer.places(mixes, inner.count()) {
        let mut value = ZERO;
        for (weight, term) in terms(inner, n - mixes) {
            if let Some(term) = own.view().get(*term as usize) {
                value.iter_mut().zip(term).for_each(|(v, t)| *v += t * weight);
            }
        }
        own.add(n, &keep(&value, outer.get(n)));
    }
}

/// The values in the lanes where they count for something.
#[inline(always)]
fn keep(value: &Lanes, outer: Option<&Lanes>) -> Lanes {
    let outer = outer.unwrap_or(&ZERO);
    std::array::from_fn(|l| if outer[l] == 0.0 { 0.0 } else { value[l] })
}
