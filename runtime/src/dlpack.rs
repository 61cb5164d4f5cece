//! Tensors that other libraries may have made or take, in host or device memory, by [DLPack](https://dmlc.github.io/dlpack)
//! 1.x: the structures of its C ABI, and what owns one.
//!
//! A [`DlTensor`] is a dense row-major tensor of a type that artifacts know. [`DlTensor::import`] takes one over from a
//! producer without a copy, and checks what it says; [`DlTensor::export`] gives one to a consumer, who calls its deleter in
//! the end. Sessions run on them with [`EntryHandle::run_dlpack`](crate::EntryHandle::run_dlpack).

use crate::error::{Error, Result};
use crate::format::ElemType;
use crate::tensor::{Tensor, TensorView, Typed, byte_len};
use std::ffi::c_void;
use std::ptr::NonNull;

/// The version of the ABI.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

/// Where memory is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// [`CPU`], [`CUDA`], or another of DLPack's numbers.
    pub device_type: i32,
    pub device_id: i32,
}

pub const CPU: i32 = 1;
pub const CUDA: i32 = 2;
/// Memory of the host that CUDA has pinned.
pub const CUDA_HOST: i32 = 3;

/// An element type: its kind, its bits, and how many stand together.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

/// A tensor in memory of somebody's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawTensor {
    pub data: *mut c_void,
    pub device: Device,
    pub ndim: i32,
    pub dtype: DataType,
    pub shape: *mut i64,
    /// In elements; null for a dense row-major tensor.
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// A tensor with what frees it: `DLManagedTensorVersioned`.
#[repr(C)]
#[derive(Debug)]
pub struct ManagedTensor {
    pub version: Version,
    pub manager_ctx: *mut c_void,
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
    /// [`READ_ONLY`] among others.
    pub flags: u64,
    pub tensor: RawTensor,
}

/// The flag of a tensor that nobody may write to.
pub const READ_ONLY: u64 = 1;

const VERSION: Version = Version { major: 1, minor: 0 };
const MAX_RANK: usize = 16;

/// DLPack's names of element types.
const TYPES: &[(ElemType, u8, u8)] = &[
    (ElemType::I8, 0, 8),
    (ElemType::I16, 0, 16),
    (ElemType::I32, 0, 32),
    (ElemType::I64, 0, 64),
    (ElemType::U8, 1, 8),
    (ElemType::U16, 1, 16),
    (ElemType::U32, 1, 32),
    (ElemType::U64, 1, 64),
    (ElemType::F16, 2, 16),
    (ElemType::F32, 2, 32),
    (ElemType::F64, 2, 64),
    (ElemType::Bf16, 4, 16),
    (ElemType::I1, 6, 8),
];

/// A tensor, and the right to its memory until it is dropped.
#[derive(Debug)]
pub struct DlTensor {
    raw: NonNull<ManagedTensor>,
    elem: ElemType,
    shape: Vec<usize>,
    start: *mut u8,
}

/// What stands behind a tensor of ours. The structure comes first, so that its address is that of the whole.
#[repr(C)]
struct Owner<M> {
    managed: ManagedTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// Frees itself.
    _memory: M,
}

unsafe extern "C" fn delete<M>(managed: *mut ManagedTensor) {
    // SAFETY: it is the start of an owner that `DlTensor::new` has made, and its consumer is done with it.
    drop(unsafe { Box::from_raw(managed.cast::<Owner<M>>()) });
}

fn refuse(problem: String) -> Error {
    Error::Tensor(format!("DLPack: {problem}"))
}

impl DlTensor {
    /// Takes a tensor over from its producer: its deleter runs when this one is dropped. The memory must hold what the
    /// producer says before a session runs on it.
    ///
    /// # Errors
    /// A version that is not 1, an element type without a counterpart here, more than one lane, a tensor that is not dense
    /// and row-major, sizes that no memory has, data that is not aligned to its elements, a device that is neither CPU nor
    /// CUDA. The tensor then stays the caller's.
    ///
    /// # Safety
    /// `raw` is a `DLManagedTensorVersioned` whose deleter has not run, its pointers are those of a tensor as it describes
    /// it, and until the deleter runs nobody else writes to the memory while a session reads it, or reads it while one writes.
    pub unsafe fn import(raw: *mut ManagedTensor) -> Result<DlTensor> {
        let handle = NonNull::new(raw).ok_or_else(|| refuse("expected a tensor, found null".into()))?;
        // SAFETY: as the caller says; the fields up to the tensor are the same in every version.
        let Version { major, minor } = unsafe { (*raw).version };
        if major != VERSION.major {
            return Err(refuse(format!("expected version 1, found {major}.{minor}")));
        }
        // SAFETY: as the caller says.
        let tensor = unsafe { (*raw).tensor };
        let Device { device_type, device_id } = tensor.device;
        if ![CPU, CUDA, CUDA_HOST].contains(&device_type) {
            return Err(refuse(format!("expected memory of the CPU (1) or CUDA (2), found device type {device_type}")));
        }
        if device_id < 0 {
            return Err(refuse(format!("there is no device {device_id}")));
        }
        let DataType { code, bits, lanes } = tensor.dtype;
        let elem = TYPES.iter().find(|(_, c, b)| (*c, *b) == (code, bits) && lanes == 1).map(|(elem, ..)| *elem);
        let elem =
            elem.ok_or_else(|| refuse(format!("no element type has code {code}, {bits} bits, {lanes} lanes")))?;
        let rank = usize::try_from(tensor.ndim).ok().filter(|rank| *rank <= MAX_RANK);
        let rank = rank.ok_or_else(|| refuse(format!("{} dimensions, expected 0 to {MAX_RANK}", tensor.ndim)))?;
        if rank > 0 && tensor.shape.is_null() {
            return Err(refuse("the shape is null".into()));
        }
        // SAFETY: a shape, and strides where there are any, have as many numbers as there are dimensions.
        let numbers = |at: *mut i64| unsafe { (0..rank).map(|i| at.add(i).read()).collect::<Vec<i64>>() };
        let sizes = numbers(tensor.shape);
        let shape: Option<Vec<usize>> = sizes.iter().map(|n| usize::try_from(*n).ok()).collect();
        let shape = shape.filter(|shape| byte_len(elem, shape).is_some());
        let shape = shape.ok_or_else(|| refuse(format!("no memory holds {elem}{sizes:?}")))?;
        let empty = shape.contains(&0);
        if !tensor.strides.is_null() && !empty {
            let (found, dense) = (numbers(tensor.strides), dense_strides(&shape));
            if (0..rank).any(|i| shape[i] != 1 && found[i] != dense[i]) {
                return Err(refuse(format!("expected a dense tensor with strides {dense:?}, found {found:?}")));
            }
        }
        if tensor.data.is_null() && !empty {
            return Err(refuse("the data is null".into()));
        }
        let offset = usize::try_from(tensor.byte_offset).map_err(|e| refuse(format!("byte offset: {e}")))?;
        let start = tensor.data.cast::<u8>().wrapping_add(offset);
        if !start.addr().is_multiple_of(elem.size()) {
            let (at, size) = (tensor.byte_offset, elem.size());
            return Err(refuse(format!(
                "the data with its byte offset {at} is not aligned to the {size} bytes of {elem}"
            )));
        }
        Ok(DlTensor { raw: handle, elem, shape, start })
    }

    /// A copy-free tensor of the host's.
    pub fn from_tensor(mut tensor: Tensor) -> DlTensor {
        let start = tensor.bytes_mut().as_mut_ptr();
        let (elem, shape) = (tensor.elem(), tensor.shape().to_vec());
        DlTensor::new(elem, shape, Device { device_type: CPU, device_id: 0 }, start, tensor)
    }

    /// A tensor over memory that `memory` keeps, of which `start` is the first byte.
    pub(crate) fn new<M>(elem: ElemType, shape: Vec<usize>, device: Device, start: *mut u8, memory: M) -> DlTensor {
        let (code, bits) = TYPES.iter().find(|(e, ..)| *e == elem).map_or((0, 0), |(_, code, bits)| (*code, *bits));
        let mut owner = Box::new(Owner {
            managed: ManagedTensor {
                version: VERSION,
                manager_ctx: std::ptr::null_mut(),
                deleter: Some(delete::<M>),
                flags: 0,
                tensor: RawTensor {
                    data: start.cast(),
                    device,
                    ndim: shape.len() as i32,
                    dtype: DataType { code, bits, lanes: 1 },
                    shape: std::ptr::null_mut(),
                    strides: std::ptr::null_mut(),
                    byte_offset: 0,
                },
            },
            shape: shape.iter().map(|n| *n as i64).collect(),
            strides: dense_strides(&shape),
            _memory: memory,
        });
        owner.managed.tensor.shape = owner.shape.as_mut_ptr();
        owner.managed.tensor.strides = owner.strides.as_mut_ptr();
        let raw = NonNull::from(Box::leak(owner)).cast();
        DlTensor { raw, elem, shape, start }
    }

    /// Gives the tensor away: whoever takes it calls its deleter.
    pub fn export(self) -> *mut ManagedTensor {
        let this = std::mem::ManuallyDrop::new(self);
        this.raw.as_ptr()
    }

    pub fn elem(&self) -> ElemType {
        self.elem
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn device(&self) -> Device {
        // SAFETY: the structure lives as long as this one.
        unsafe { self.raw.as_ref() }.tensor.device
    }

    pub fn is_read_only(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.raw.as_ref() }.flags & READ_ONLY != 0
    }

    /// The first byte, on the tensor's device.
    pub fn data(&self) -> *mut u8 {
        self.start
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.elem.size()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the host may read the memory.
    pub(crate) fn is_on_host(&self) -> bool {
        self.device().device_type != CUDA
    }

    /// The tensor in the host's memory; none for one on a device.
    pub fn view(&self) -> Option<TensorView<'_>> {
        let bytes: &[u8] = match (self.is_on_host(), self.len()) {
            (false, _) => return None,
            (true, 0) => &[],
            // SAFETY: the producer has said that these bytes are there and nobody writes to them, and they are aligned.
            (true, len) => unsafe { std::slice::from_raw_parts(self.start, len) },
        };
        TensorView::new(self.elem, &self.shape, bytes).ok()
    }
}

impl Drop for DlTensor {
    fn drop(&mut self) {
        let raw = self.raw.as_ptr();
        // SAFETY: the tensor is ours, and its deleter has not run.
        unsafe {
            if let Some(deleter) = (*raw).deleter {
                deleter(raw);
            }
        }
    }
}

impl Typed for &DlTensor {
    fn elem(&self) -> ElemType {
        self.elem
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }
}

impl Typed for &mut DlTensor {
    fn elem(&self) -> ElemType {
        self.elem
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// In elements.
fn dense_strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i] as i64);
    }
    strides
}
