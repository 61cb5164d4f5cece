//! A CUDA driver that runs PTX on the host: what the runtime asks of a GPU, with every access to memory checked.
//!
//! It knows what LLVM writes. Blocks run one after the other, the last one first unless a test asks for another order.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

mod block;
mod group;
mod hopper;
mod mbarrier;
mod numbers;
mod ptx;
mod races;
mod run;
mod shared;
mod tile;

use kiln_runtime::cuda::{Address, DeviceId, Driver, Functions, Handle, Status};
use run::{Memory, Place};
use std::{
    alloc::{Layout, alloc, dealloc},
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

const INVALID_VALUE: Status = 1;
pub const OUT_OF_MEMORY: Status = 2;
const INVALID_IMAGE: Status = 200;
const NOT_FOUND: Status = 500;
const LAUNCH_FAILED: Status = 719;
const CAPTURE_UNSUPPORTED: Status = 900;

/// The memory of the device: starts and lengths.
static ALLOCATED: RwLock<BTreeMap<u64, usize>> = RwLock::new(BTreeMap::new());
/// Launches so far, of all tests of the process.
static LAUNCHES: AtomicUsize = AtomicUsize::new(0);

const MULTIPROCESSORS: c_int = 3;
/// Bytes of shared memory that a block has at most.
const MOST_SHARED: usize = 227 << 10;
/// Those it has without being allowed more.
const USUAL_SHARED: usize = 48 << 10;

/// The alignment that the driver promises.
const ALIGN: usize = 256;

struct Allocated;

impl Memory for Allocated {
    fn allows(&self, start: u64, len: u64) -> bool {
        let allocated = ALLOCATED.read().unwrap_or_else(PoisonError::into_inner);
        let before = allocated.range(..=start).next_back();
        before.is_some_and(|(at, bytes)| start + len <= at + *bytes as u64)
    }
}

/// The functions of a driver for CUDA 12.4 with a device of compute capability 9.0.
pub fn functions() -> Functions {
    Functions {
        init,
        driver_version,
        device_count,
        device_get,
        device_name,
        device_attribute,
        context_retain,
        context_release,
        context_set,
        module_load,
        module_unload,
        module_function,
        function_attribute,
        occupancy,
        memory_alloc,
        memory_free,
        copy_to_device,
        copy_to_host,
        memory_set,
        stream_create,
        stream_destroy,
        stream_synchronize,
        capture_begin,
        capture_end,
        graph_instantiate,
        graph_launch,
        graph_exec_destroy,
        graph_destroy,
        event_create,
        event_destroy,
        event_record,
        event_elapsed,
        launch,
        error_name,
        encode_map: Some(tile::encode),
    }
}

pub fn driver() -> Arc<Driver> {
    Driver::new(functions()).unwrap()
}

/// Launches of this process.
pub fn launches() -> usize {
    LAUNCHES.load(Ordering::Relaxed)
}

struct Module {
    parsed: ptx::Module,
}

struct Function {
    module: *const Module,
    name: String,
    /// The most bytes of shared memory that a launch may give a block.
    shared: Cell<usize>,
}

unsafe extern "C" fn init(_: c_uint) -> Status {
    0
}

unsafe extern "C" fn driver_version(version: *mut c_int) -> Status {
    unsafe { *version = 12040 };
    0
}

unsafe extern "C" fn device_count(count: *mut c_int) -> Status {
    unsafe { *count = 1 };
    0
}

unsafe extern "C" fn device_get(device: *mut DeviceId, _: c_int) -> Status {
    unsafe { *device = 0 };
    0
}

unsafe extern "C" fn device_name(name: *mut c_char, len: c_int, _: DeviceId) -> Status {
    let text = b"Emulated GPU\0";
    assert!(len as usize >= text.len());
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len()) };
    0
}

unsafe extern "C" fn device_attribute(value: *mut c_int, which: c_int, _: DeviceId) -> Status {
    // Few multiprocessors, so that blocks of kernels that ask how many there are have several tasks.
    let known = [(75, 9), (76, 0), (16, MULTIPROCESSORS), (97, MOST_SHARED as c_int)];
    let Some((_, number)) = known.iter().find(|(attribute, _)| *attribute == which) else { return INVALID_VALUE };
    unsafe { *value = *number };
    0
}

unsafe extern "C" fn context_retain(context: *mut Handle, _: DeviceId) -> Status {
    unsafe { *context = std::ptr::without_provenance_mut(1) };
    0
}

unsafe extern "C" fn context_release(_: DeviceId) -> Status {
    0
}

unsafe extern "C" fn context_set(_: Handle) -> Status {
    0
}

unsafe extern "C" fn module_load(
    module: *mut Handle,
    text: *const c_void,
    _: c_uint,
    _: *mut c_int,
    values: *mut *mut c_void,
) -> Status {
    let text = unsafe { CStr::from_ptr(text.cast()) }.to_string_lossy();
    match ptx::Module::parse(&text) {
        Ok(parsed) => {
            unsafe { *module = Box::into_raw(Box::new(Module { parsed })).cast() };
            0
        }
        Err(problem) => {
            let log = unsafe { *values }.cast::<u8>();
            unsafe { std::ptr::copy_nonoverlapping(problem.as_ptr(), log, problem.len().min(1000)) };
            INVALID_IMAGE
        }
    }
}

unsafe extern "C" fn module_unload(module: Handle) -> Status {
    drop(unsafe { Box::from_raw(module.cast::<Module>()) });
    0
}

unsafe extern "C" fn module_function(function: *mut Handle, module: Handle, name: *const c_char) -> Status {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let module: *const Module = module.cast();
    if !unsafe { &*module }.parsed.functions.contains_key(&name) {
        return NOT_FOUND;
    }
    // As the driver's, a function lives as long as its module; here it outlives it.
    unsafe { *function = Box::into_raw(Box::new(Function { module, name, shared: Cell::new(USUAL_SHARED) })).cast() };
    0
}

unsafe extern "C" fn function_attribute(function: Handle, which: c_int, value: c_int) -> Status {
    if which != 8 || !(0..=MOST_SHARED as c_int).contains(&value) {
        return INVALID_VALUE;
    }
    unsafe { &*function.cast::<Function>() }.shared.set((value as usize).max(USUAL_SHARED));
    0
}

unsafe extern "C" fn occupancy(blocks: *mut c_int, function: Handle, threads: c_int, shared: usize) -> Status {
    if function.is_null() || threads < 1 || shared > MOST_SHARED {
        return INVALID_VALUE;
    }
    unsafe { *blocks = 1 };
    0
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGN).unwrap()
}

unsafe extern "C" fn memory_alloc(address: *mut Address, bytes: usize) -> Status {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    if bytes > 4 << 30 {
        return OUT_OF_MEMORY;
    }
    let start = unsafe { alloc(layout(bytes)) };
    if start.is_null() {
        return OUT_OF_MEMORY;
    }
    // What is read before it is written is not zero by luck.
    unsafe { start.write_bytes(0xa5, bytes) };
    ALLOCATED.write().unwrap_or_else(PoisonError::into_inner).insert(start as u64, bytes);
    unsafe { *address = start as u64 };
    0
}

unsafe extern "C" fn memory_free(address: Address) -> Status {
    let freed = ALLOCATED.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    let Some(bytes) = freed else { return INVALID_VALUE };
    unsafe { dealloc(address as *mut u8, layout(bytes)) };
    0
}

/// Whether a copy stays within one allocation.
fn inside(address: Address, bytes: usize) -> bool {
    bytes > 0 && Allocated.allows(address, bytes as u64)
}

unsafe extern "C" fn copy_to_device(to: Address, from: *const c_void, bytes: usize, _: Handle) -> Status {
    // The host's memory may be gone when a graph runs.
    if CAPTURED.with_borrow(Option::is_some) {
        return CAPTURE_UNSUPPORTED;
    }
    if !inside(to, bytes) {
        return INVALID_VALUE;
    }
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to as *mut u8, bytes) };
    COPIED.set(COPIED.get() + bytes);
    0
}

unsafe extern "C" fn copy_to_host(to: *mut c_void, from: Address, bytes: usize, _: Handle) -> Status {
    // The host's memory may be gone when a graph runs.
    if CAPTURED.with_borrow(Option::is_some) {
        return CAPTURE_UNSUPPORTED;
    }
    if !inside(from, bytes) {
        return INVALID_VALUE;
    }
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), bytes) };
    COPIED.set(COPIED.get() + bytes);
    0
}

unsafe extern "C" fn memory_set(to: Address, value: u8, bytes: usize, _: Handle) -> Status {
    if !inside(to, bytes) {
        return INVALID_VALUE;
    }
    unsafe { (to as *mut u8).write_bytes(value, bytes) };
    0
}

unsafe extern "C" fn stream_create(stream: *mut Handle, _: c_uint) -> Status {
    unsafe { *stream = std::ptr::without_provenance_mut(2) };
    0
}

unsafe extern "C" fn stream_destroy(_: Handle) -> Status {
    0
}

thread_local! {
    static WAITS: Cell<usize> = const { Cell::new(0) };
}

thread_local! {
    static COPIED: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that this thread has copied between the host and the device.
pub fn copied() -> usize {
    COPIED.get()
}

/// Whether an allocation on the device starts there.
pub fn is_allocated(address: u64) -> bool {
    ALLOCATED.read().unwrap_or_else(PoisonError::into_inner).contains_key(&address)
}

/// How often this thread has waited for the device.
pub fn waits() -> usize {
    WAITS.get()
}

unsafe extern "C" fn stream_synchronize(_: Handle) -> Status {
    // What is captured has not been done.
    if CAPTURED.with_borrow(Option::is_some) {
        return CAPTURE_UNSUPPORTED;
    }
    WAITS.set(WAITS.get() + 1);
    0
}

/// A launch with its parameters.
#[derive(Clone)]
struct Launch {
    function: usize,
    blocks: c_uint,
    threads: c_uint,
    shared: usize,
    params: Vec<u64>,
    /// The memory of those that are no numbers.
    arrays: Vec<Arc<Array>>,
}

#[repr(align(64))]
struct Array([u8; 128]);

thread_local! {
    /// The launches that are captured, where that has begun.
    static CAPTURED: RefCell<Option<Vec<Launch>>> = const { RefCell::new(None) };
}
/// Graphs that ran so far, of all tests of the process.
static GRAPHS: AtomicUsize = AtomicUsize::new(0);

/// Graphs that this process ran.
pub fn graphs() -> usize {
    GRAPHS.load(Ordering::Relaxed)
}

unsafe extern "C" fn capture_begin(_: Handle, _: c_int) -> Status {
    CAPTURED.with_borrow_mut(|captured| match captured.replace(vec![]) {
        None => 0,
        Some(_) => INVALID_VALUE,
    })
}

unsafe extern "C" fn capture_end(_: Handle, graph: *mut Handle) -> Status {
    let Some(launches) = CAPTURED.take() else { return INVALID_VALUE };
    unsafe { *graph = Box::into_raw(Box::new(launches)).cast() };
    0
}

unsafe extern "C" fn graph_instantiate(
    ready: *mut Handle,
    graph: Handle,
    _: *mut Handle,
    _: *mut c_char,
    _: usize,
) -> Status {
    let launches = unsafe { &*graph.cast::<Vec<Launch>>() }.clone();
    unsafe { *ready = Box::into_raw(Box::new(launches)).cast() };
    0
}

unsafe extern "C" fn graph_launch(graph: Handle, _: Handle) -> Status {
    GRAPHS.fetch_add(1, Ordering::Relaxed);
    let launches = unsafe { &*graph.cast::<Vec<Launch>>() };
    launches.iter().map(perform).find(|status| *status != 0).unwrap_or(0)
}

unsafe extern "C" fn graph_exec_destroy(graph: Handle) -> Status {
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Launch>>()) });
    0
}

unsafe extern "C" fn graph_destroy(graph: Handle) -> Status {
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Launch>>()) });
    0
}

unsafe extern "C" fn event_create(event: *mut Handle, _: c_uint) -> Status {
    unsafe { *event = std::ptr::without_provenance_mut(3) };
    0
}

unsafe extern "C" fn event_destroy(_: Handle) -> Status {
    0
}

unsafe extern "C" fn event_record(_: Handle, _: Handle) -> Status {
    0
}

unsafe extern "C" fn event_elapsed(milliseconds: *mut f32, _: Handle, _: Handle) -> Status {
    unsafe { *milliseconds = 1.0 };
    0
}

unsafe extern "C" fn launch(
    function: Handle,
    blocks: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    shared: c_uint,
    _: Handle,
    params: *mut *mut c_void,
    _: *mut *mut c_void,
) -> Status {
    if blocks == 0 || [blocks_y, blocks_z, threads_y, threads_z] != [1; 4] || threads > 1024 {
        return INVALID_VALUE;
    }
    let entry = unsafe { &*function.cast::<Function>() };
    if shared as usize > entry.shared.get() {
        return INVALID_VALUE;
    }
    let parsed = &unsafe { &(*entry.module).parsed }.functions[&entry.name];
    let mut arrays = vec![];
    let param = |i: usize| unsafe {
        let from = *params.add(i);
        if parsed.arrays.contains(&i) {
            let array = Arc::new(Array(from.cast::<[u8; 128]>().read_unaligned()));
            let at = array.0.as_ptr() as u64;
            arrays.push(array);
            return at;
        }
        from.cast::<u64>().read_unaligned()
    };
    let params = (0..parsed.params).map(param).collect();
    let launch = Launch { function: function as usize, blocks, threads, shared: shared as usize, params, arrays };
    let captured = CAPTURED.with_borrow_mut(|captured| match captured {
        Some(launches) => {
            launches.push(launch.clone());
            true
        }
        None => false,
    });
    if captured { 0 } else { perform(&launch) }
}

thread_local! {
    static ORDER: Cell<u64> = const { Cell::new(0) };
}

/// Lets the blocks of this thread's launches follow one another in another order for each number; for 0 the last one comes
/// first.
pub fn set_order(number: u64) {
    ORDER.set(number);
}

fn order(blocks: c_uint) -> Vec<c_uint> {
    let mut all: Vec<c_uint> = (0..blocks).rev().collect();
    let number = ORDER.get();
    if number > 0 {
        // A block's place is what a multiplication makes of the two numbers.
        all.sort_by_key(|block| {
            (u64::from(*block) + 1).wrapping_mul(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) >> 32
        });
    }
    all
}

fn perform(launch: &Launch) -> Status {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let Launch { function, blocks, threads, shared, ref params, .. } = *launch;
    let function = unsafe { &*(function as *const Function) };
    let module = unsafe { &(*function.module).parsed };
    let entry = &module.functions[&function.name];
    for block in order(blocks) {
        let place = Place { thread: 0, threads, block, blocks };
        if let Err(problem) = block::run(module, entry, params, (&Allocated, shared), place) {
            println!("block {block}: {problem}");
            return LAUNCH_FAILED;
        }
    }
    0
}

unsafe extern "C" fn error_name(status: Status, name: *mut *const c_char) -> Status {
    let text = match status {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        INVALID_IMAGE => c"CUDA_ERROR_INVALID_IMAGE",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        _ => return INVALID_VALUE,
    };
    unsafe { *name = text.as_ptr() };
    0
}
