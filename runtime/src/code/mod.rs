//! Making a code section callable.
//!
//! Two ways: the system's dynamic linker over an anonymous file in memory, which debuggers and profilers understand,
//! and a loader of our own where a sandbox forbids the first. Neither leaves a page both writable and executable.

mod dl;
mod elf;

use crate::error::{Error, Result};
use crate::format::TargetInfo;
#[cfg(feature = "cuda")]
pub(crate) use dl::last_error;
use std::ffi::CString;

/// A CPU kernel: `bufs`, `sizes`, first task, end of tasks, scratch. The contract is in the module docs of
/// [`Plan`](crate::format::Plan).
pub(crate) type KernelFn = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, *mut u8) -> i32;

/// How machine code gets into the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loader {
    /// The system's, and where that is forbidden the built-in one.
    #[default]
    Auto,
    /// `memfd_create` and `dlopen`.
    System,
    /// Anonymous memory.
    Builtin,
}

enum Image {
    System(dl::Library),
    Builtin(elf::Image),
}

/// The loaded code of one target.
pub(crate) struct Program {
    kernels: Vec<KernelFn>,
    image: Image,
}

impl Program {
    pub(crate) fn load(target: &TargetInfo, code: &[u8], loader: Loader) -> Result<Program> {
        let fail = |problem: String| Error::Code { target: target.name.clone(), problem };
        let image = match loader {
            Loader::System => Image::System(dl::Library::open(code).map_err(fail)?),
            Loader::Builtin => Image::Builtin(elf::Image::load(code).map_err(fail)?),
            Loader::Auto => match dl::Library::open(code) {
                Ok(library) => Image::System(library),
                Err(first) => {
                    let image = elf::Image::load(code);
                    Image::Builtin(
                        image.map_err(|second| fail(format!("{first}; and by the built-in loader: {second}")))?,
                    )
                }
            },
        };
        let mut kernels = Vec::with_capacity(target.kernels.len());
        for kernel in &target.kernels {
            let address = match &image {
                Image::System(library) => {
                    CString::new(kernel.symbol.as_str()).ok().and_then(|symbol| library.symbol(&symbol))
                }
                Image::Builtin(image) => image.symbol(&kernel.symbol),
            };
            let address = address.ok_or_else(|| fail(format!("it has no symbol {}", kernel.symbol)))?;
            // SAFETY: it is the address of a function of the code section, which has this signature by contract.
            kernels.push(unsafe { std::mem::transmute::<*const u8, KernelFn>(address.as_ptr()) });
        }
        Ok(Program { kernels, image })
    }

    pub(crate) fn loaded_by(&self, loader: Loader) -> bool {
        match loader {
            Loader::Auto => true,
            Loader::System => matches!(self.image, Image::System(_)),
            Loader::Builtin => matches!(self.image, Image::Builtin(_)),
        }
    }

    /// The kernels, in the order of the target's table. Callable as long as `self` lives.
    pub(crate) fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }
}
