//! `%r = cos %x`: cosine of x in radians. Backends keep to the tolerance while `|x| < 2^20`; beyond it digits are lost.

use super::OpDef;
use crate::scalar::Unary;

pub(super) static DEF: OpDef = OpDef::float1("cos", "cosine of x in radians, to the tolerance for magnitudes below 2^20", |e, x, _| e.unary(Unary::Cos, x[0]));
