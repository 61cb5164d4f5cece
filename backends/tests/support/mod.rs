//! Compiles kernels, loads them into this process and calls them.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test uses its part")]

use kiln_backends::llvm::{Compiler, Stage, link};
pub use kiln_ir::sample::Random;
use kiln_kernels::{abi::ModuleBuilder, cpu::CpuLevel};
use std::{
    ffi::{CStr, CString, c_void},
    io::Write,
    os::fd::{AsRawFd, FromRawFd},
};

type Entry = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, *mut u8) -> i32;

/// A shared object in memory, loaded through a memfd.
pub struct Library {
    handle: *mut c_void,
    /// Stays open: the loader takes a path it has seen for the library it loaded from there.
    _file: std::fs::File,
}

impl Library {
    pub fn load(bytes: &[u8]) -> Library {
        let fd = unsafe { libc::memfd_create(c"kernels".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create");
        let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
        file.write_all(bytes).unwrap();
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "dlopen: {}", unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy());
        Library { handle, _file: file }
    }

    /// Compiles what `emit` builds and loads it.
    pub fn build(level: CpuLevel, emit: impl FnOnce(&mut ModuleBuilder<'_>)) -> Library {
        let object = Compiler::new().compile("test", level, Stage::Obj, emit).unwrap();
        Library::load(&link(level, &[&object]).unwrap())
    }

    pub fn kernel(&self, symbol: &str) -> Function<'_> {
        let name = CString::new(symbol).unwrap();
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!address.is_null(), "{symbol} is not exported");
        Function { entry: unsafe { std::mem::transmute::<*mut c_void, Entry>(address) }, _library: self }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        unsafe { libc::dlclose(self.handle) };
    }
}

/// A kernel that can be called.
pub struct Function<'l> {
    entry: Entry,
    _library: &'l Library,
}

impl Function<'_> {
    /// Runs the tasks `lo..hi`; returns the status.
    ///
    /// # Safety
    /// The buffers must be as large as the kernel takes them to be.
    pub unsafe fn call(&self, buffers: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, scratch: *mut u8) -> i32 {
        unsafe { (self.entry)(buffers.as_ptr(), sizes.as_ptr(), lo, hi, scratch) }
    }
}

/// Zeroed memory aligned to 64 bytes. What lies behind it is checked when it is dropped.
pub struct Aligned {
    words: Vec<[u64; 8]>,
    len: usize,
}

/// Bytes behind [`Aligned`] memory that nothing may write.
const GUARD: usize = 256;

impl Aligned {
    pub fn bytes(len: usize) -> Aligned {
        let mut memory = Aligned { words: vec![[0; 8]; (len + GUARD) / 64 + 2], len };
        unsafe { memory.ptr().add(len).write_bytes(0xa5, GUARD) };
        memory
    }

    pub fn ptr(&mut self) -> *mut u8 {
        let start = self.words.as_mut_ptr().cast::<u8>();
        unsafe { start.add(start.align_offset(64)) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let guard = unsafe { std::slice::from_raw_parts(self.ptr().add(self.len), GUARD) };
        if !std::thread::panicking() {
            assert!(guard.iter().all(|b| *b == 0xa5), "memory beyond {} bytes was written", self.len);
        }
    }
}

/// The levels this machine can run.
pub fn native_levels() -> Vec<CpuLevel> {
    CpuLevel::ALL.into_iter().filter(|level| level.is_native()).collect()
}
