//! One GPU: its memory, its stream, and what runs there.

use super::driver::{Address, DeviceId, Driver, Handle, OUT_OF_MEMORY, Status};
use crate::error::{Error, Result};
use crate::format::{Grid, Level, TargetInfo};
use std::ffi::{CString, c_void};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Numbers of the driver's device attributes.
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
const CLOCK_KHZ: i32 = 13;
const MULTIPROCESSORS: i32 = 16;
const MOST_SHARED: i32 = 97;
/// The number of the attribute of functions that bounds the shared memory of their launches.
const FUNCTION_SHARED: i32 = 8;
/// Numbers of the options of module loading.
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;

/// The first device of a driver. Its primary context is retained by what first needs one, until the end.
pub(crate) struct Device {
    driver: Arc<Driver>,
    id: DeviceId,
    context: OnceLock<Handle>,
    /// Compute capability.
    capability: (i32, i32),
    name: String,
}

// SAFETY: the driver may be called from any thread; each call makes the context current first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The version of CUDA whose drivers first understood a version of PTX: they came out together.
fn cuda_of(ptx: (i32, i32)) -> (i32, i32) {
    match ptx {
        (7, minor) => (11, minor),
        (major, minor) => (major + 4, minor),
    }
}

/// Reads `ptx8.0`.
fn ptx_version(feature: &str) -> Option<(i32, i32)> {
    let (major, minor) = feature.strip_prefix("ptx")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Device {
    /// Asks for the device, without a context; [`Error::NoGpu`] says why it cannot be had.
    pub(crate) fn open(driver: Arc<Driver>) -> Result<Arc<Device>> {
        debug_assert!(driver.devices() > 0);
        let f = driver.functions();
        let (mut id, mut major, mut minor) = (0, 0, 0);
        let mut name = [0u8; 128];
        // SAFETY: the pointers are to variables of this function, and `name` has the length that is said.
        unsafe {
            driver.opened((f.device_get)(&mut id, 0))?;
            driver.opened((f.device_name)(name.as_mut_ptr().cast(), name.len() as i32 - 1, id))?;
            driver.opened((f.device_attribute)(&mut major, CAPABILITY_MAJOR, id))?;
            driver.opened((f.device_attribute)(&mut minor, CAPABILITY_MINOR, id))?;
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        Ok(Arc::new(Device { driver, id, context: OnceLock::new(), capability: (major, minor), name }))
    }

    fn attribute(&self, which: i32) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the pointer is to a variable of this function.
        self.driver
            .check("the device", unsafe { (self.driver.functions().device_attribute)(&mut value, which, self.id) })?;
        Ok(value)
    }

    /// Retains the primary context, unless this device has it already. A device that gives none, such as one that another
    /// process has for itself or that has no memory left, is [`Error::NoGpu`].
    pub(super) fn enter(&self) -> Result<Handle> {
        if let Some(context) = self.context.get() {
            return Ok(*context);
        }
        let (f, mut context) = (self.driver.functions(), std::ptr::null_mut());
        // SAFETY: the pointer is to a variable of this function.
        self.driver.opened(unsafe { (f.context_retain)(&mut context, self.id) })?;
        if self.context.set(context).is_err() {
            // SAFETY: another thread was faster, and one release is due for each that retains.
            unsafe { (f.context_release)(self.id) };
        }
        Ok(context)
    }

    pub(super) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub(super) fn facts(&self) -> Result<super::Facts> {
        Ok(super::Facts {
            name: self.name.clone(),
            capability: self.capability,
            multiprocessors: self.attribute(MULTIPROCESSORS)?,
            clock_khz: self.attribute(CLOCK_KHZ)?,
            driver: self.driver.version(),
        })
    }

    /// The device in words.
    pub(crate) fn describe(&self) -> String {
        let ((major, minor), (c, d)) = (self.driver.version(), self.capability);
        format!("{}, compute capability {c}.{d}, driver for CUDA {major}.{minor}", self.name)
    }

    /// Whether the device and its driver run the target's code; an error says why not.
    pub(crate) fn supports(&self, target: &TargetInfo) -> Result<()> {
        self.serves(target.level, &target.features)?;
        let shared = target.kernels.iter().filter_map(|k| Some(k.grid?.shared_bytes)).max().unwrap_or(0);
        if shared > 0 {
            let has = self.attribute(MOST_SHARED)?;
            if i64::from(has) < i64::from(shared) {
                let (name, target) = (&self.name, &target.name);
                return Err(Error::NoGpu(format!(
                    "{target} needs {shared} bytes of shared memory a block, {name} has {has}"
                )));
            }
        }
        if self.driver.functions().encode_map.is_none() && target.kernels.iter().any(|k| !k.maps.is_empty()) {
            return Err(Error::NoGpu(format!("the CUDA driver makes no tensor maps, which {} needs", target.name)));
        }
        Ok(())
    }

    /// Whether they run code of a level with such needs; an error says why not.
    pub(super) fn serves(&self, level: Level, features: &[String]) -> Result<()> {
        let (c, d) = self.capability;
        let fits = match level {
            Level::Sm80 => c >= 8,
            Level::Sm90a => (c, d) == (9, 0),
            _ => false,
        };
        let target = format!("cuda:{level}");
        if !fits {
            let needs = if level == Level::Sm90a { "9.0" } else { "8.0 or more" };
            let name = &self.name;
            return Err(Error::NoGpu(format!("{target} needs compute capability {needs}, {name} has {c}.{d}")));
        }
        for feature in features {
            let ptx = ptx_version(feature).ok_or_else(|| Error::NoGpu(format!("{target}: unknown need {feature}")))?;
            let ((major, minor), (has_major, has_minor)) = (cuda_of(ptx), self.driver.version());
            if (has_major, has_minor) < (major, minor) {
                return Err(Error::NoGpu(format!(
                    "the CUDA driver is too old: it supports CUDA {has_major}.{has_minor}, the PTX {}.{} of {} needs a \
                     driver for CUDA {major}.{minor} or later",
                    ptx.0, ptx.1, target
                )));
            }
        }
        Ok(())
    }

    /// Makes the context that of the calling thread, and calls the driver.
    pub(super) fn call(&self, what: &str, call: impl FnOnce(&super::Functions) -> Status) -> Result<()> {
        let (f, context) = (self.driver.functions(), self.enter()?);
        // SAFETY: the context is retained as long as `self` lives.
        self.driver.check(what, unsafe { (f.context_set)(context) })?;
        self.driver.check(what, call(f))
    }

    /// Calls the driver where nobody can be told of a failure.
    fn call_anyway(&self, call: impl FnOnce(&super::Functions) -> Status) {
        let _ = self.call("", call);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context.get().is_some() {
            // SAFETY: everything that used the context has been dropped: it held this device.
            unsafe { (self.driver.functions().context_release)(self.id) };
        }
    }
}

/// Bytes on a device.
pub(crate) struct Memory {
    device: Arc<Device>,
    start: Address,
    len: usize,
}

impl Memory {
    /// `len` bytes of any content; none take no memory.
    pub(crate) fn new(device: &Arc<Device>, len: usize, what: &'static str) -> Result<Memory> {
        let mut start = 0;
        if len > 0 {
            let mut status = 0;
            let allocate = |f: &super::Functions| {
                // SAFETY: the pointer is to a variable of this function.
                status = unsafe { (f.memory_alloc)(&mut start, len) };
                status
            };
            let allocated = device.call(what, allocate);
            if status == OUT_OF_MEMORY {
                return Err(Error::Memory { what, bytes: len as u64 });
            }
            allocated?;
        }
        Ok(Memory { device: device.clone(), start, len })
    }

    pub(crate) fn start(&self) -> Address {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the memory is ours, and whoever launched work on it has waited for the end.
            self.device.call_anyway(|f| unsafe { (f.memory_free)(self.start) });
        }
    }
}

/// Launches and copies, one after another.
pub(crate) struct Stream {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: as for `Device`.
unsafe impl Send for Stream {}

impl Stream {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Stream> {
        let mut handle = std::ptr::null_mut();
        /// Work on it does not wait for that of other streams.
        const NON_BLOCKING: u32 = 1;
        // SAFETY: the pointer is to a variable of this function.
        device.call("a stream", |f| unsafe { (f.stream_create)(&mut handle, NON_BLOCKING) })?;
        Ok(Stream { device: device.clone(), handle })
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Copies to the device. The bytes may change when this returns.
    pub(crate) fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the bytes are there; from memory that is not pinned, the driver returns when it has read them.
        self.device.call("a copy to the device", |f| unsafe {
            (f.copy_to_device)(to, bytes.as_ptr().cast(), bytes.len(), self.handle)
        })
    }

    /// Copies from the device; the bytes are there after [`Stream::wait`].
    ///
    /// # Safety
    /// `bytes` points to `len` bytes that stay until then.
    pub(crate) unsafe fn download(&self, bytes: *mut u8, from: Address, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: as the caller says.
        self.device
            .call("a copy from the device", |f| unsafe { (f.copy_to_host)(bytes.cast(), from, len, self.handle) })
    }

    pub(crate) fn clear(&self, start: Address, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's memory on the device.
        self.device.call("clearing memory", |f| unsafe { (f.memory_set)(start, 0, len, self.handle) })
    }

    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: the stream is ours.
        self.device.call("the device's work", |f| unsafe { (f.stream_synchronize)(self.handle) })
    }

    /// Launches `blocks` blocks of `threads` threads with `shared` bytes of shared memory; `params` point to the parameters.
    ///
    /// # Safety
    /// The parameters are those of the function, and what they address is there until the launch has ended.
    pub(crate) unsafe fn launch(
        &self,
        what: &str,
        function: Function,
        (blocks, threads, shared): (u32, u32, u32),
        params: &mut [*mut c_void],
    ) -> Result<()> {
        self.device.call(what, |f| unsafe {
            let (none, params) = (std::ptr::null_mut(), params.as_mut_ptr());
            (f.launch)(function.handle, blocks, 1, 1, threads, 1, 1, shared, self.handle, params, none)
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: the stream is ours, and nothing runs on it.
        self.device.call_anyway(|f| unsafe { (f.stream_destroy)(self.handle) });
    }
}

/// Launches that are put on a stream all at once.
pub(crate) struct Graph {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: as for `Device`.
unsafe impl Send for Graph {}

impl Graph {
    const NAME: &'static str = "a graph of launches";

    /// What is put on the stream from now on is not done, but becomes part of a graph.
    pub(crate) fn begin(stream: &Stream) -> Result<()> {
        /// Other threads may do as they like meanwhile.
        const THREAD_LOCAL: i32 = 1;
        // SAFETY: the stream is ours.
        stream.device.call(Graph::NAME, |f| unsafe { (f.capture_begin)(stream.handle, THREAD_LOCAL) })
    }

    /// The graph of what has been put on the stream since it began, if that is `done`. It ends in any case.
    pub(crate) fn end(stream: &Stream, done: Result<()>) -> Result<Graph> {
        let device = &stream.device;
        let (mut captured, mut handle) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the pointer is to a variable of this function.
        let ended = device.call(Graph::NAME, |f| unsafe { (f.capture_end)(stream.handle, &mut captured) });
        let made = done.and(ended).and_then(|()| {
            let (node, text) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the graph is the one captured; no text is asked for.
            device.call(Graph::NAME, |f| unsafe { (f.graph_instantiate)(&mut handle, captured, node, text, 0) })
        });
        if !captured.is_null() {
            // SAFETY: it is ours, and what has been made of it does not need it.
            device.call_anyway(|f| unsafe { (f.graph_destroy)(captured) });
        }
        made.map(|()| Graph { device: device.clone(), handle })
    }

    pub(crate) fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are ours and of one device.
        self.device.call(Graph::NAME, |f| unsafe { (f.graph_launch)(self.handle, stream.handle) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: whoever launched it has waited for the end.
        self.device.call_anyway(|f| unsafe { (f.graph_exec_destroy)(self.handle) });
    }
}

/// Times of the device between two points of a stream.
pub(crate) struct Timer {
    device: Arc<Device>,
    events: [Handle; 2],
}

// SAFETY: as for `Device`.
unsafe impl Send for Timer {}

impl Timer {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Timer> {
        let mut timer = Timer { device: device.clone(), events: [std::ptr::null_mut(); 2] };
        for event in &mut timer.events {
            // SAFETY: the pointer is to a handle of the timer.
            device.call("an event", |f| unsafe { (f.event_create)(event, 0) })?;
        }
        Ok(timer)
    }

    fn record(&self, event: usize, stream: &Stream) -> Result<()> {
        // SAFETY: event and stream are of one device.
        self.device.call("an event", |f| unsafe { (f.event_record)(self.events[event], stream.handle) })
    }

    pub(crate) fn start(&self, stream: &Stream) -> Result<()> {
        self.record(0, stream)
    }

    /// How long the device took for what has been put on the stream since the start. Waits for it.
    pub(crate) fn stop(&self, stream: &Stream) -> Result<Duration> {
        self.record(1, stream)?;
        stream.wait()?;
        let mut elapsed = 0.0;
        // SAFETY: both events have been recorded, and the pointer is to a variable of this function.
        self.device.call("an event", |f| unsafe { (f.event_elapsed)(&mut elapsed, self.events[0], self.events[1]) })?;
        // A time that is none is not worth failing a run for.
        Ok(Duration::try_from_secs_f64(f64::from(elapsed) / 1e3).unwrap_or_default())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        for event in self.events.into_iter().filter(|event| !event.is_null()) {
            // SAFETY: the event is ours.
            self.device.call_anyway(|f| unsafe { (f.event_destroy)(event) });
        }
    }
}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    handle: Handle,
    /// The most blocks of a launch.
    pub(super) blocks: u32,
}

/// Assembled code.
pub(super) struct Module {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: as for `Device`.
unsafe impl Send for Module {}
// SAFETY: as for `Device`.
unsafe impl Sync for Module {}

impl Module {
    /// Has the driver assemble PTX text.
    pub(super) fn load(device: &Arc<Device>, target: &str, ptx: &[u8]) -> Result<Module> {
        let fail = |problem: String| Error::Code { target: target.to_owned(), problem };
        let text = CString::new(ptx).map_err(|e| fail(e.to_string()))?;
        let mut log = vec![0u8; 4096];
        let mut options = [ERROR_LOG, ERROR_LOG_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len() - 1)];
        let mut handle = std::ptr::null_mut();
        let loaded = device.call("", |f| unsafe {
            // SAFETY: the text is a C string; the options are two, and the log has the length that is said.
            (f.module_load)(&mut handle, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        });
        match loaded {
            Ok(()) => Ok(Module { device: device.clone(), handle }),
            Err(Error::Gpu { problem, .. }) => {
                let said: Vec<u8> = log.iter().copied().take_while(|b| *b != 0).collect();
                let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
                Err(fail(if said.is_empty() { problem } else { format!("{problem}: {said}") }))
            }
            Err(e) => Err(e),
        }
    }

    /// The function of this name, made ready for launches on a grid.
    pub(super) fn function(&self, target: &str, symbol: &str, grid: Option<Grid>) -> Result<Function> {
        let fail = || Error::Code { target: target.to_owned(), problem: format!("it has no entry {symbol}") };
        let name = CString::new(symbol).map_err(|_| fail())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the name is a C string and the module is loaded.
        let found = self.device.call("", |f| unsafe { (f.module_function)(&mut handle, self.handle, name.as_ptr()) });
        found.map_err(|_| fail())?;
        let mut function = Function { handle, blocks: i32::MAX as u32 };
        let Some(grid) = grid else { return Ok(function) };
        if grid.shared_bytes > 0 {
            let bytes = grid.shared_bytes as i32;
            // SAFETY: the function is the one just found.
            self.device.call(symbol, |f| unsafe { (f.function_attribute)(handle, FUNCTION_SHARED, bytes) })?;
        }
        if grid.resident {
            let (mut each, threads) = (0, grid.threads as i32);
            self.device.call(symbol, |f| unsafe {
                // SAFETY: the pointer is to a variable of this function.
                (f.occupancy)(&mut each, handle, threads, grid.shared_bytes as usize)
            })?;
            let all = each.max(1).saturating_mul(self.device.attribute(MULTIPROCESSORS)?.max(1));
            function.blocks = all as u32;
        }
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: whoever launched its functions has waited for the end.
        self.device.call_anyway(|f| unsafe { (f.module_unload)(self.handle) });
    }
}
