//! Complete rows of deterministic circuits: which nodes have a positive value, many rows to a word, and then along the
//! few nodes of each row's tree.
//!
//! Upwards, the support of a node is a set of rows: a conjunction for each product, a disjunction for each sum. At most
//! one term of a sum is supported, so downwards each row follows one tree, and what a row comes by is added to it. The
//! order of these additions is that of the runs, whatever the other rows are.

use super::{
    Spec,
    runs::Fields,
    table::{RunKind, Shape},
    walk::Walk,
};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, Ptr, Ty, V},
    cpu::Cpu,
    scalar::{self, register},
    view::View,
};
