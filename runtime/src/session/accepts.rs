//! Whether the elements of inputs are those that an entry accepts: one pass over each input that does not take any.

use super::bind::coordinates;
use crate::error::{Error, Result};
use crate::format::{Accepts, ElemType, SizeError};
use crate::tensor::TensorView;
use crate::text::plain;

/// Problems beyond these are counted: an input may hold any number.
const MAX_LISTED: usize = 10;

/// An [`Accepts`] of which the sizes are known.
pub(super) enum Check {
    Finite,
    Range { min: i64, max: i64, filled: bool },
}

impl Check {
    /// None where every element is taken.
    pub(super) fn new(accepts: &Accepts, symbols: &[i64]) -> Result<Option<Check>, SizeError> {
        Ok(match accepts {
            Accepts::Finite => Some(Check::Finite),
            Accepts::Range { min, max, filled } => {
                Some(Check::Range { min: *min, max: max.eval(symbols)?, filled: *filled })
            }
            Accepts::Size => None,
        })
    }

    /// Adds what is wrong with an input to the problems. Allocates nothing where nothing is.
    pub(super) fn problems(&self, name: &str, tensor: TensorView, problems: &mut Vec<String>) {
        let bytes = tensor.bytes();
        let count = bytes.len() / tensor.elem().size();
        let at = |i: usize| format!("input {}{:?}", plain(name), coordinates(tensor.shape(), i));
        let mut found = 0;
        let mut add = |problem: &dyn Fn() -> String| {
            found += 1;
            if found <= MAX_LISTED {
                problems.push(problem());
            } else if found == MAX_LISTED + 1 {
                problems.push(format!("input {}: and more", plain(name)));
            }
        };
        match self {
            Check::Finite => {
                let Some(float) = float(tensor.elem()) else { return };
                for i in 0..count {
                    if let Some(what) = float(bytes, i) {
                        add(&|| format!("{} is {what}, expected a finite number", at(i)));
                    }
                }
            }
            Check::Range { min, max, filled } => {
                let Some(int) = int(tensor.elem()) else { return };
                let range = i128::from(*min)..=i128::from(*max);
                let row = tensor.shape().last().copied().unwrap_or(1).max(1);
                for i in 0..count {
                    let value = int(bytes, i);
                    if range.contains(&value) {
                        continue;
                    }
                    if !*filled || value != -1 {
                        add(&|| format!("{} is {value}, expected {min} to {max}", at(i)));
                    } else if (i + 1) % row != 0 && int(bytes, i + 1) != -1 {
                        let next = int(bytes, i + 1);
                        let wanted = "expected -1 only behind all others";
                        add(&|| format!("{} is -1, {wanted}, found {next} behind it", at(i)));
                    }
                }
            }
        }
    }
}

/// The error that lists the problems, if there are any.
pub(super) fn refused(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(Error::Values { problems }) }
}

fn array<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[i * N..(i + 1) * N]);
    out
}

/// Says of an element of floats what it is if it is not a number.
type Classify = fn(&[u8], usize) -> Option<&'static str>;

fn float(elem: ElemType) -> Option<Classify> {
    /// By the bits of a float, of which those of `exponent` are all set.
    fn what(bits: u64, exponent: u64) -> Option<&'static str> {
        let sign = exponent + (exponent & exponent.wrapping_neg());
        match bits & exponent == exponent {
            false => None,
            true if bits & !(exponent | sign) != 0 => Some("NaN"),
            true if bits & sign != 0 => Some("-inf"),
            true => Some("inf"),
        }
    }
    Some(match elem {
        ElemType::F64 => |b, i| what(u64::from_ne_bytes(array(b, i)), 0x7ff0_0000_0000_0000),
        ElemType::F32 => |b, i| what(u32::from_ne_bytes(array(b, i)).into(), 0x7f80_0000),
        ElemType::F16 => |b, i| what(u16::from_ne_bytes(array(b, i)).into(), 0x7c00),
        ElemType::Bf16 => |b, i| what(u16::from_ne_bytes(array(b, i)).into(), 0x7f80),
        _ => return None,
    })
}

/// Reads element `i` of integers.
fn int(elem: ElemType) -> Option<fn(&[u8], usize) -> i128> {
    Some(match elem {
        ElemType::I8 => |b, i| i8::from_ne_bytes(array(b, i)).into(),
        ElemType::I16 => |b, i| i16::from_ne_bytes(array(b, i)).into(),
        ElemType::I32 => |b, i| i32::from_ne_bytes(array(b, i)).into(),
        ElemType::I64 => |b, i| i64::from_ne_bytes(array(b, i)).into(),
        ElemType::U8 => |b, i| u8::from_ne_bytes(array(b, i)).into(),
        ElemType::U16 => |b, i| u16::from_ne_bytes(array(b, i)).into(),
        ElemType::U32 => |b, i| u32::from_ne_bytes(array(b, i)).into(),
        ElemType::U64 => |b, i| u64::from_ne_bytes(array(b, i)).into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(check: &Check, elem: ElemType, shape: &[usize], words: &[u64]) -> Vec<String> {
        let size = elem.size();
        let mut tensor = crate::Tensor::zeros(elem, shape).unwrap();
        for (to, word) in tensor.bytes_mut().chunks_exact_mut(size).zip(words) {
            to.copy_from_slice(&word.to_le_bytes()[..size]);
        }
        let mut found = vec![];
        check.problems("x", tensor.view(), &mut found);
        found
    }

    #[test]
    fn floats_of_every_width() {
        let cases = [
            (
                ElemType::F64,
                [f64::MAX.to_bits(), f64::NAN.to_bits(), f64::INFINITY.to_bits(), (-f64::INFINITY).to_bits()],
            ),
            (ElemType::F32, [0x7f7f_ffff, 0xffc0_0001, 0x7f80_0000, 0xff80_0000]),
            (ElemType::F16, [0x7bff, 0x7e00, 0x7c00, 0xfc00]),
            (ElemType::Bf16, [0x7f7f, 0xff81, 0x7f80, 0xff80]),
        ];
        let at = ["[0, 1] is NaN", "[1, 0] is inf", "[1, 1] is -inf"];
        let expected = at.map(|at| format!("input x{at}, expected a finite number"));
        for (elem, words) in cases {
            assert_eq!(problems(&Check::Finite, elem, &[2, 2], &words), expected, "{elem}");
        }
        assert!(problems(&Check::Finite, ElemType::I64, &[1], &[1]).is_empty());
    }

    #[test]
    fn integers_of_every_width() {
        let range = |filled| Check::Range { min: 0, max: 3, filled };
        for elem in [ElemType::I8, ElemType::I16, ElemType::I32, ElemType::I64] {
            let words = [3, u64::MAX, u64::MAX, 0, u64::MAX, 1];
            let mut expected = vec!["input x[1, 1] is -1, expected -1 only behind all others, found 1 behind it"];
            assert_eq!(problems(&range(true), elem, &[2, 3], &words), expected, "{elem}");
            expected = ["[0, 1]", "[0, 2]", "[1, 1]"].into();
            let expected = expected.iter().map(|at| format!("input x{at} is -1, expected 0 to 3"));
            assert_eq!(problems(&range(false), elem, &[2, 3], &words), expected.collect::<Vec<_>>(), "{elem}");
        }
        for elem in [ElemType::U8, ElemType::U16, ElemType::U32, ElemType::U64] {
            let largest = u64::MAX >> (64 - 8 * elem.size());
            let expected = format!("input x[1] is {largest}, expected 0 to 3");
            assert_eq!(problems(&range(true), elem, &[2], &[3, u64::MAX]), [expected]);
        }
        assert!(problems(&range(true), ElemType::I64, &[0, 3], &[]).is_empty());
        assert_eq!(problems(&range(false), ElemType::I64, &[], &[4]), ["input x[] is 4, expected 0 to 3"]);
    }

    #[test]
    fn many_problems_are_not_all_listed() {
        let found = problems(&Check::Range { min: 1, max: 1, filled: false }, ElemType::I8, &[1000], &[]);
        assert_eq!((found.len(), found[MAX_LISTED].as_str()), (MAX_LISTED + 1, "input x: and more"));
    }
}
