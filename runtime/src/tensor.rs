//! Dense row-major tensors, borrowed and owned.

use crate::error::{Error, Result};
use crate::format::ElemType;
use crate::memory::AlignedBytes;

/// What has an element type and a shape.
pub(crate) trait Typed {
    fn elem(&self) -> ElemType;
    fn shape(&self) -> &[usize];
}

impl Typed for TensorView<'_> {
    fn elem(&self) -> ElemType {
        self.elem
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }
}

impl Typed for TensorMut<'_> {
    fn elem(&self) -> ElemType {
        self.elem
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is the element of a tensor.
pub trait Element: sealed::Sealed + Copy + 'static {
    const ELEM: ElemType;
}

macro_rules! elements {
    ($($rust:ty => $elem:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const ELEM: ElemType = ElemType::$elem;
        }
    )*};
}

elements!(f64 => F64, f32 => F32, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32,
    u64 => U64);

/// A borrowed tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    elem: ElemType,
    shape: &'a [usize],
    bytes: &'a [u8],
}

/// A borrowed tensor to write into.
#[derive(Debug)]
pub struct TensorMut<'a> {
    elem: ElemType,
    shape: &'a [usize],
    bytes: &'a mut [u8],
}

/// An owned tensor, at a 64-byte boundary.
pub struct Tensor {
    elem: ElemType,
    shape: Vec<usize>,
    bytes: AlignedBytes,
}

/// The bytes of a tensor. None if that is more than memory can hold.
pub(crate) fn byte_len(elem: ElemType, shape: &[usize]) -> Option<usize> {
    let len = shape.iter().try_fold(elem.size(), |n, d| n.checked_mul(*d))?;
    isize::try_from(len).ok().map(|_| len)
}

fn check(elem: ElemType, shape: &[usize], bytes: &[u8]) -> Result<()> {
    match byte_len(elem, shape) {
        Some(len) if len != bytes.len() => {
            Err(Error::Tensor(format!("{elem}{shape:?} has {len} bytes, {} are given", bytes.len())))
        }
        Some(_) if !bytes.as_ptr().addr().is_multiple_of(elem.size()) => {
            Err(Error::Tensor(format!("{elem} data starts at an address that is not a multiple of {}", elem.size())))
        }
        Some(_) => Ok(()),
        None => Err(Error::Tensor(format!("{elem}{shape:?} has more bytes than an address can count"))),
    }
}

impl<'a> TensorView<'a> {
    /// A tensor over native-endian bytes, which must be as many as the shape says and aligned to the element.
    pub fn new(elem: ElemType, shape: &'a [usize], bytes: &'a [u8]) -> Result<TensorView<'a>> {
        check(elem, shape, bytes).map(|()| TensorView { elem, shape, bytes })
    }

    /// A tensor over a slice of Rust numbers. Half floats and truth values go through [`TensorView::new`].
    pub fn of<T: Element>(shape: &'a [usize], values: &'a [T]) -> Result<TensorView<'a>> {
        // SAFETY: the sealed types have no padding, and the bytes are the slice's own.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        TensorView::new(T::ELEM, shape, bytes)
    }

    pub fn elem(&self) -> ElemType {
        self.elem
    }

    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> TensorMut<'a> {
    /// As [`TensorView::new`].
    pub fn new(elem: ElemType, shape: &'a [usize], bytes: &'a mut [u8]) -> Result<TensorMut<'a>> {
        check(elem, shape, bytes).map(|()| TensorMut { elem, shape, bytes })
    }

    /// As [`TensorView::of`].
    pub fn of<T: Element>(shape: &'a [usize], values: &'a mut [T]) -> Result<TensorMut<'a>> {
        // SAFETY: the sealed types have no padding and no invalid bytes, and the bytes are the slice's own.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
        TensorMut::new(T::ELEM, shape, bytes)
    }

    pub fn elem(&self) -> ElemType {
        self.elem
    }

    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(elem: ElemType, shape: &[usize]) -> Result<Tensor> {
        let fail = || Error::Memory { what: "a tensor", bytes: u64::MAX };
        let bytes = AlignedBytes::zeroed(byte_len(elem, shape).ok_or_else(fail)?, "a tensor")?;
        Ok(Tensor { elem, shape: shape.to_vec(), bytes })
    }

    /// A copy of a slice of Rust numbers.
    pub fn of<T: Element>(shape: &[usize], values: &[T]) -> Result<Tensor> {
        let view = TensorView::of(shape, values)?;
        let bytes = AlignedBytes::copy_of(view.bytes, "a tensor")?;
        Ok(Tensor { elem: T::ELEM, shape: shape.to_vec(), bytes })
    }

    pub fn elem(&self) -> ElemType {
        self.elem
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    pub fn view(&self) -> TensorView<'_> {
        TensorView { elem: self.elem, shape: &self.shape, bytes: self.bytes.as_slice() }
    }

    pub fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut { elem: self.elem, shape: &self.shape, bytes: self.bytes.as_mut_slice() }
    }

    /// The elements, if `T` is their type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        let bytes = self.bytes();
        // SAFETY: the bytes are aligned to 64, and any bytes are valid elements of the sealed types.
        (T::ELEM == self.elem)
            .then(|| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.elem, self.shape)
    }
}
