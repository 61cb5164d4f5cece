//! `if`, `while` and `for` as steps of the plan: regions as blocks, carried values as temporaries that each run of the
//! body overwrites.

use super::{
    Count, Step,
    planner::{Planner, View},
};
use kiln_ir::{Def, ElemType, Node, Op, Region, Value, scalar::Literal};

impl Planner<'_> {
    /// A loop whose body's kernels are launches.
    pub(super) fn stepwise(&mut self, node: Node) {
        match self.m.nodes[node].op {
            Op::While => self.repeat(node),
            _ => self.count(node),
        }
    }

    pub(super) fn branch(&mut self, node: Node) {
        let data = &self.m.nodes[node];
        let condition = self.view(data.operand(0));
        let results: Vec<View> = data.results.iter().map(|r| self.output(*r)).collect();
        self.touch(&[&condition], &[]);
        let [then, otherwise] = [0, 1].map(|n| self.in_block(|p| p.region(data.regions[n], &results)));
        let step = Step::If { condition: condition.place(), then, otherwise };
        self.blocks[self.block].push(step);
    }

    fn repeat(&mut self, node: Node) {
        let data = &self.m.nodes[node];
        let (condition, body) = (data.regions[0], data.regions[1]);
        let carried = self.carry(node, 0);
        let flag = self.scratch(ElemType::I1, &[]);
        let flags = [flag.clone()];
        let start = self.now;
        self.test(condition, &carried, &flags);
        self.touch(&[&flag], &[]);
        let inner = self.in_block(|p| {
            p.body(body, &carried, 0);
            p.test(condition, &carried, &flags);
        });
        self.close(start, &flag, &carried);
        let max = data.attrs.dim("max").cloned().unwrap_or(0.into());
        let label = self.label.clone();
        self.blocks[self.block].push(Step::While { condition: flag.place(), body: inner, max, label });
    }

    fn count(&mut self, node: Node) {
        let m = self.m;
        let data = &m.nodes[node];
        let fixed = match m.values[data.operand(0)].def {
            Def::Const(c) => match m.consts[c].data.first() {
                Some(Literal::Int(n)) => Some(*n),
                _ => None,
            },
            Def::Param(_) | Def::Arg(..) | Def::Result(..) => None,
        };
        let count = if fixed.is_none() { Some(self.view(data.operand(0))) } else { None };
        let carried = self.carry(node, 1);
        let index = self.scratch(ElemType::I64, &[]);
        let start = self.now;
        self.touch(&count.iter().collect::<Vec<_>>(), &[&index]);
        let body = data.regions[0];
        let inner = self.in_block(|p| {
            p.bind(p.m.regions[body].args[0], index.clone());
            p.body(body, &carried, 1);
        });
        self.close(start, &index, &carried);
        let count = count.map_or(Count::Fixed(fixed.unwrap_or(0)), |view| Count::At(view.place()));
        let step = Step::For { count, index: index.place(), body: inner };
        self.blocks[self.block].push(step);
    }

    /// Copies the initial values, from operand `first` on, to where the loop carries them; these are its results too.
    fn carry(&mut self, node: Node, first: usize) -> Vec<View> {
        let data = &self.m.nodes[node];
        let inits: Vec<Value> = data.inputs().skip(first).collect();
        let places: Vec<View> = data.results.iter().map(|r| self.output(*r)).collect();
        for (init, place) in inits.iter().zip(&places) {
            let from = self.view(*init);
            self.copy(&from, place);
        }
        places
    }

    fn test(&mut self, condition: Region, carried: &[View], flag: &[View]) {
        let args = &self.m.regions[condition].args;
        args.iter().zip(carried).for_each(|(arg, view)| self.bind(*arg, view.clone()));
        self.forget_copies();
        self.region(condition, flag);
    }

    /// The body, with its arguments from `first` on bound to the carried values. The next values are complete before
    /// the first old one goes.
    fn body(&mut self, body: Region, carried: &[View], first: usize) {
        let args = &self.m.regions[body].args;
        args[first..].iter().zip(carried).for_each(|(arg, view)| self.bind(*arg, view.clone()));
        self.forget_copies();
        let next: Vec<View> = carried.iter().map(|view| self.scratch(view.elem, &view.layout.dims.clone())).collect();
        self.region(body, &next);
        for (from, to) in next.iter().zip(carried) {
            self.copy(from, to);
        }
    }

    /// Ends a loop that began at `start`: what it carries lives throughout.
    fn close(&mut self, start: usize, control: &View, carried: &[View]) {
        self.forget_copies();
        let all: Vec<&View> = carried.iter().chain([control]).collect();
        self.touch(&all, &[]);
        self.loops.push(start..self.now);
    }
}
