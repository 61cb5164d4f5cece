//! Evidence: a block of rows, or one row, upwards through all runs.

use super::{
    Spec,
    table::{Shape, Space},
    walk::Walk,
};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, Ty, V},
    cpu::{Converts, Cpu},
    scalar::{self, functions, register},
    view::View,
};

/// Places in the scratch memory, in bytes.
pub(super) struct Scratch {
    /// Slots, each as many values as there are rows.
    pub values: i64,
    /// By variable and row: codes as i32, and cells as values, NaN where missing.
    pub codes: i64,
    pub cells: i64,
    /// By row: whether a cell is missing as i32, and the exponents taken out as values.
    pub missing: i64,
    pub scale: i64,
    /// By row: the result as values, and whether it will do as i32.
    pub result: i64,
    pub good: i64,
    pub bytes: i64,
}

pub(super) fn scratch(shape: &Shape) -> Scratch {
    places(shape, shape.block, shape.slots, shape.value.bytes() as i64)
}

/// The places for so many rows, and slots of values of so many bytes.
pub(super) fn places(shape: &Shape, rows: i64, slots: i64, value: i64) -> Scratch {
    let mut end = 0;
    let mut take = |bytes: i64| {
        let start = end;
        end += (bytes + 63) / 64 * 64;
        start
    };
    Scratch {
        values: take(slots * rows * value),
        codes: take(shape.variables * rows * 4),
        cells: take(shape.variables * rows * value),
        missing: take(rows * 4),
        scale: take(rows * value),
        result: take(rows * value),
        good: take(rows * 4),
        bytes: end,
    }
}

pub(super) fn evidence<'k>(spec: &Spec, kernel: &Kernel<'k>, cpu: &'static Cpu, output: &Access, incomplete: bool) {
    let (k, shape) = (kernel.k, &spec.shape);
    let places = scratch(shape);
    let output = View::new(kernel, spec.first_table() + 5, output, cpu);
    let output_type = scalar::Access { elem: output.elem, lanes: 1, converts: Converts::Nothing };
    let rows = kernel.size(&spec.rows);
    kernel.tasks(|task| {
        let first = task * shape.block;
        let count = (rows - first).min(shape.block);
        let up = |size: i64| {
            let walk = Walk::new(spec, kernel, cpu, size, shape.space);
            let evaluate = || {
                let missing = walk.read(first, count);
                walk.up();
                let (result, good) = finish(&walk, &places);
                if incomplete {
                    walk.store_rows(walk.at(places.missing), missing.int_to(Elem::I32, false));
                }
                // Where all rows are there and good, they are stored at once; else one by one, as said in memory.
                let whole = count.eq(size).v(k) & good.map_or(k.int(Ty::I1, 1), all);
                if incomplete || !output.strides[0].is(1) && size > 1 {
                    return vec![k.int(Ty::I1, 1)];
                }
                k.if_(whole, || {
                    for (part, value) in result.split().into_iter().enumerate() {
                        let row = first + part as i64 * walk.lanes as i64;
                        output.moves(walk.lanes).store(output.at(&[row]), value.float_to(register(output.elem)));
                    }
                });
                vec![whole ^ k.int(Ty::I1, 1)]
            };
            if !incomplete {
                return evaluate();
            }
            k.if_else(walk.any_missing(first, count), evaluate, || vec![k.int(Ty::I1, 0)])
        };
        let wanted = k.if_else(count.eq(1), || up(1), || up(shape.block))[0];
        let row = |i: Ix<'k>| {
            let store = |value: V<'k>| {
                output_type.store(output.at(&[first + i]), value.float_to(register(output.elem)));
            };
            let result = || {
                let value = Ty::new(register(shape.value), 1);
                store(kernel.scratch.bytes(places.result).offset(value.elem, i).load(value));
            };
            if !shape.checked {
                return result();
            }
            // In logarithms, in the memory of what is no longer needed.
            let again = || {
                let walk = Walk::new(spec, kernel, cpu, 1, Space::Log);
                walk.read(first + i, 1.into());
                walk.up();
                store(walk.slot(shape.root.into()) + walk.head(1));
            };
            k.if_else(
                flag(kernel, places.good, i),
                || {
                    result();
                    vec![]
                },
                || {
                    again();
                    vec![]
                },
            );
        };
        k.if_(wanted, || {
            k.for_(
                0,
                count,
                1,
                |i| {
                    if incomplete { k.if_(flag(kernel, places.missing, i), || row(i)) } else { row(i) }
                },
            );
        });
    });
}

/// Whether the i32 of a row at a place in the scratch memory is set.
fn flag<'k>(kernel: &Kernel<'k>, place: i64, row: Ix<'k>) -> V<'k> {
    let value = kernel.scratch.bytes(place).offset(Elem::I32, row).load(Ty::I32);
    value.cmp(Cmp::Ne, value.like(0.0))
}

/// Whether all are set.
fn all(flags: V<'_>) -> V<'_> {
    let set = flags.builder().int(Ty::I1, 1);
    (flags ^ flags.like(1.0)).any() ^ set
}

/// The logarithm of the root's value and whether that is good, of each row, which are also stored.
fn finish<'k>(walk: &Walk<'_, 'k>, places: &Scratch) -> (V<'k>, Option<V<'k>>) {
    let (result, good) = result(walk);
    walk.store_rows(walk.at(places.result), result);
    if let Some(good) = good {
        walk.store_rows(walk.at(places.good), good.int_to(Elem::I32, false));
    }
    (result, good)
}

/// The logarithm of the root's value of each row, and where it can be too small, whether it is good.
pub(super) fn result<'k>(walk: &Walk<'_, 'k>) -> (V<'k>, Option<V<'k>>) {
    let shape = &walk.spec.shape;
    let root = walk.slot(shape.root.into());
    let shift = walk.wide(walk.head(1));
    let result = if walk.log {
        root + shift
    } else {
        let ln2 = root.like(std::f64::consts::LN_2);
        walk.load_rows(walk.scale(), walk.elem).fma(ln2, functions::log(root) + shift)
    };
    (result, shape.checked.then(|| root.cmp(Cmp::Ge, walk.wide(walk.head(0)))))
}
