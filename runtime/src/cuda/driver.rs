//! The functions of NVIDIA's driver that are used, found in its library when a GPU is asked for.
//!
//! The library comes with the driver and not with the toolkit. A table of our own instead of a crate's: it is small,
//! it needs no version of the toolkit to be chosen at compile time, and a library that lacks a function is an error and
//! not a panic.

use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::Arc;

/// A result code; 0 is success.
pub type Status = c_int;
pub type DeviceId = c_int;
/// An address on a device.
pub type Address = u64;
/// Contexts, modules, functions, streams, events and graphs.
pub type Handle = *mut c_void;

/// The map, element type, rank, address, sizes, strides, tile, steps of elements, interleaving, swizzle, promotion to the
/// second cache, what fills up.
pub type EncodeMap = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_uint,
    Address,
    *const u64,
    *const u64,
    *const c_uint,
    *const c_uint,
    c_int,
    c_int,
    c_int,
    c_int,
) -> Status;

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident $symbol:literal ($($arg:ty),*);)*) => {
        /// The driver's functions.
        #[derive(Clone, Copy)]
        pub struct Functions {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($arg),*) -> Status,)*
            /// `cuTensorMapEncodeTiled`, which drivers have from CUDA 12.0 on.
            pub encode_map: Option<EncodeMap>,
        }

        impl Functions {
            /// Finds each by its symbol.
            fn find(symbol: impl Fn(&CStr) -> Result<*mut c_void, String>) -> Result<Functions, String> {
                Ok(Functions {
                    $($field: {
                        let address = symbol($symbol)?;
                        // SAFETY: the address is that of the driver's function, which has this signature.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> Status>(address) }
                    },)*
                    encode_map: symbol(c"cuTensorMapEncodeTiled").ok().map(|address| {
                        // SAFETY: as above.
                        unsafe { std::mem::transmute::<*mut c_void, EncodeMap>(address) }
                    }),
                })
            }
        }
    };
}

functions! {
    init c"cuInit" (c_uint);
    driver_version c"cuDriverGetVersion" (*mut c_int);
    device_count c"cuDeviceGetCount" (*mut c_int);
    device_get c"cuDeviceGet" (*mut DeviceId, c_int);
    device_name c"cuDeviceGetName" (*mut c_char, c_int, DeviceId);
    device_attribute c"cuDeviceGetAttribute" (*mut c_int, c_int, DeviceId);
    context_retain c"cuDevicePrimaryCtxRetain" (*mut Handle, DeviceId);
    context_release c"cuDevicePrimaryCtxRelease_v2" (DeviceId);
    context_set c"cuCtxSetCurrent" (Handle);
    /// Module, text, number of options, options, their values.
    module_load c"cuModuleLoadDataEx" (*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_unload c"cuModuleUnload" (Handle);
    module_function c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    /// Function, attribute, value.
    function_attribute c"cuFuncSetAttribute" (Handle, c_int, c_int);
    /// Blocks of a function that a multiprocessor runs at a time; function, threads, bytes of shared memory.
    occupancy c"cuOccupancyMaxActiveBlocksPerMultiprocessor" (*mut c_int, Handle, c_int, usize);
    memory_alloc c"cuMemAlloc_v2" (*mut Address, usize);
    memory_free c"cuMemFree_v2" (Address);
    copy_to_device c"cuMemcpyHtoDAsync_v2" (Address, *const c_void, usize, Handle);
    copy_to_host c"cuMemcpyDtoHAsync_v2" (*mut c_void, Address, usize, Handle);
    memory_set c"cuMemsetD8Async" (Address, u8, usize, Handle);
    stream_create c"cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy c"cuStreamDestroy_v2" (Handle);
    stream_synchronize c"cuStreamSynchronize" (Handle);
    /// Stream, mode: what follows on the stream is put into a graph instead.
    capture_begin c"cuStreamBeginCapture_v2" (Handle, c_int);
    capture_end c"cuStreamEndCapture" (Handle, *mut Handle);
    /// The graph made ready, the graph, a node at fault, a text on it and its length.
    graph_instantiate c"cuGraphInstantiate_v2" (*mut Handle, Handle, *mut Handle, *mut c_char, usize);
    graph_launch c"cuGraphLaunch" (Handle, Handle);
    graph_exec_destroy c"cuGraphExecDestroy" (Handle);
    graph_destroy c"cuGraphDestroy" (Handle);
    event_create c"cuEventCreate" (*mut Handle, c_uint);
    event_destroy c"cuEventDestroy_v2" (Handle);
    /// Event, stream.
    event_record c"cuEventRecord" (Handle, Handle);
    /// Milliseconds from the first event to the second.
    event_elapsed c"cuEventElapsedTime" (*mut f32, Handle, Handle);
    /// Function, grid, block, bytes of shared memory, stream, parameters, extra.
    launch c"cuLaunchKernel" (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    error_name c"cuGetErrorName" (Status, *mut *const c_char);
}

/// Out of device memory.
pub(super) const OUT_OF_MEMORY: Status = 2;
/// The driver has no device.
const NO_DEVICE: Status = 100;
/// What a context never recovers from: memory errors that cannot be corrected, and whatever a kernel did that it may not.
const LOST: &[Status] = &[214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];

/// An initialised driver.
pub struct Driver {
    functions: Functions,
    /// The version of CUDA that it supports, as major and minor.
    version: (i32, i32),
    devices: i32,
}

impl Driver {
    /// Loads the driver that is installed: `libcuda.so.1`.
    pub fn load() -> Result<Arc<Driver>> {
        Driver::open("libcuda.so.1".as_ref())
    }

    /// Loads a driver from a library of that name or path. It stays loaded.
    pub fn open(library: &Path) -> Result<Arc<Driver>> {
        let fail = |problem: String| Error::NoGpu(format!("no CUDA driver: {problem}"));
        let name = CString::new(library.as_os_str().as_encoded_bytes()).map_err(|e| fail(e.to_string()))?;
        // SAFETY: the name is a C string; running the library's initialisers is what loading a driver is.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(fail(crate::code::last_error()));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            let missing = || format!("{} has no {}", library.display(), name.to_string_lossy());
            if address.is_null() { Err(missing()) } else { Ok(address) }
        };
        Driver::new(Functions::find(symbol).map_err(fail)?)
    }

    /// Initialises a driver whose functions the caller has.
    pub fn new(functions: Functions) -> Result<Arc<Driver>> {
        let mut driver = Driver { functions, version: (0, 0), devices: 0 };
        let (mut version, mut devices) = (0, 0);
        // SAFETY: the pointers are to numbers of this function.
        unsafe {
            match (functions.init)(0) {
                NO_DEVICE => return Err(Error::NoGpu("the CUDA driver finds no device".into())),
                status => driver.initialised(status)?,
            }
            driver.initialised((functions.driver_version)(&mut version))?;
            driver.initialised((functions.device_count)(&mut devices))?;
        }
        driver.version = (version / 1000, version % 1000 / 10);
        driver.devices = devices;
        if devices == 0 {
            return Err(Error::NoGpu("the CUDA driver finds no device".into()));
        }
        Ok(Arc::new(driver))
    }

    fn initialised(&self, status: Status) -> Result<()> {
        let fail = |name| Error::NoGpu(format!("the CUDA driver does not start: {name}"));
        if status == 0 { Ok(()) } else { Err(fail(self.name(status))) }
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.functions
    }

    /// The version of CUDA that the driver supports, as major and minor.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    pub(super) fn devices(&self) -> i32 {
        self.devices
    }

    /// The driver's name of a status.
    fn name(&self, status: Status) -> String {
        let mut name = std::ptr::null();
        // SAFETY: the driver sets the pointer to a constant of its own, or leaves it null.
        unsafe {
            (self.functions.error_name)(status, &mut name);
            if name.is_null() { format!("error {status}") } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        }
    }

    /// A status other than 0 of what opens a device: there is none to run on.
    pub(super) fn opened(&self, status: Status) -> Result<()> {
        let fail = |name| Error::NoGpu(format!("the GPU cannot be opened: {name}"));
        if status == 0 { Ok(()) } else { Err(fail(self.name(status))) }
    }

    /// The error that a status other than 0 is.
    pub(super) fn check(&self, what: &str, status: Status) -> Result<()> {
        let (what, problem) = match status {
            0 => return Ok(()),
            _ => (what.to_owned(), self.name(status)),
        };
        Err(if LOST.contains(&status) { Error::GpuLost { what, problem } } else { Error::Gpu { what, problem } })
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CUDA driver {}.{}", self.version.0, self.version.1)
    }
}
