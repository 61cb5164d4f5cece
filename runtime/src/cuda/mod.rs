//! Running a target's code on an NVIDIA GPU, through the driver alone.
//!
//! What artifacts say of GPUs stands in [`Plan`](crate::format::Plan): a launch is one of the PTX module's entries. Inputs
//! are copied to the device when a run starts and outputs from it when it ends; the arena, the states and the weights stay
//! there. The launches of a run stand on one stream; the host waits for it at the end, and where it has to know a value to
//! go on. Those of a plan in which it never does are captured when they run the second time, and are one graph from then on.

mod control;
mod device;
mod driver;
mod map;

use crate::error::{Error, Result};
use crate::format::{COUNTERS, Kernel, Level, TargetInfo};
use control::Control;
pub(crate) use control::{Guard, Sides};
use device::{Device, Function, Graph, Memory, Module, Stream, Timer};
pub use driver::{Address, DeviceId, Driver, EncodeMap, Functions, Handle, Status};
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

/// The words in front of the scratch memory.
const COUNTER_BYTES: usize = 4 * COUNTERS;

/// Scratch memory of a launch, at most, unless a single block needs more.
const SCRATCH: u64 = 256 << 20;

const PORT: &str = "an input or output on the device";

/// The loaded code of one target, with the weights: what sessions share.
pub(crate) struct Program {
    /// In the order of the target's table.
    functions: Vec<Function>,
    _module: Module,
    weights: Memory,
    device: Arc<Device>,
}

// SAFETY: functions are handles that the driver takes on any thread.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    pub(crate) fn load(
        driver: Option<&Arc<Driver>>,
        target: &TargetInfo,
        ptx: &[u8],
        weights: &[u8],
    ) -> Result<Program> {
        let device = device_for(driver, target)?;
        device.enter()?;
        let module = Module::load(&device, &target.name, ptx)?;
        let functions =
            target.kernels.iter().map(|k| module.function(&target.name, &k.symbol, k.grid)).collect::<Result<_>>()?;
        let memory = Memory::new(&device, weights.len(), "the weights on the device")?;
        let stream = Stream::new(&device)?;
        stream.upload(memory.start(), weights)?;
        stream.wait()?;
        Ok(Program { functions, _module: module, weights: memory, device })
    }

    /// Whether it was loaded by this driver, or by any if none is named.
    pub(crate) fn loaded_by(&self, driver: Option<&Arc<Driver>>) -> bool {
        driver.is_none_or(|driver| Arc::ptr_eq(driver, self.device.driver()))
    }
}

/// What one session has on the device.
pub(crate) struct Engine {
    /// Goes first, and waits for what uses the rest.
    stream: Stream,
    arena: Memory,
    states: Vec<Memory>,
    scratch: Memory,
    /// An i32 for each kernel of the target.
    status: Memory,
    host_status: Vec<i32>,
    /// By entry: the launches of its last binding, if they are always the same. They hold addresses of what follows.
    recordings: Vec<Recording>,
    /// By entry: room for the inputs and then the outputs that are on the host.
    ports: Vec<Vec<Memory>>,
    params: Vec<*mut c_void>,
    /// Made when a plan first needs it.
    control: Option<Control>,
    /// The tensor maps of the launch that is being made.
    maps: Vec<map::Encoded>,
    /// Made when a launch is first timed.
    timer: Option<Timer>,
    program: Arc<Program>,
}

// SAFETY: the parameters are only set and used inside a launch.
unsafe impl Send for Engine {}

/// How far the launches of an entry are to be known.
enum Recording {
    /// They have not run: memory may still be asked for while they do.
    New,
    /// They have run, one by one.
    Run,
    Made(Graph),
}

/// One launch of a plan.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: u32,
    pub(crate) names: &'a Kernel,
    pub(crate) bufs: &'a [*mut u8],
    /// The last is the scratch bytes of a task.
    pub(crate) sizes: &'a [i64],
    /// Of the manifest.
    pub(crate) symbols: &'a [i64],
    pub(crate) tasks: i64,
    pub(crate) guard: Option<Guard>,
}

impl Engine {
    /// `states` are their bytes.
    pub(crate) fn new(program: Arc<Program>, entries: usize, states: &[usize]) -> Result<Engine> {
        let device = program.device.clone();
        let stream = Stream::new(&device)?;
        let states: Vec<Memory> =
            states.iter().map(|bytes| Memory::new(&device, *bytes, "a state on the device")).collect::<Result<_>>()?;
        let kernels = program.functions.len();
        let engine = Engine {
            stream,
            arena: Memory::new(&device, 0, "the arena on the device")?,
            scratch: Memory::new(&device, 0, "scratch memory on the device")?,
            status: Memory::new(&device, kernels * size_of::<i32>(), "status words on the device")?,
            host_status: vec![0; kernels],
            recordings: (0..entries).map(|_| Recording::New).collect(),
            ports: (0..entries).map(|_| vec![]).collect(),
            params: vec![],
            control: None,
            maps: vec![],
            timer: None,
            states,
            program,
        };
        for state in 0..engine.states.len() {
            engine.clear_state(state)?;
        }
        Ok(engine)
    }

    /// Bytes on the device that belong to this session.
    pub(crate) fn bytes(&self) -> usize {
        let ports = self.ports.iter().flatten();
        self.states.iter().chain(ports).chain([&self.arena, &self.scratch]).map(Memory::len).sum()
    }

    pub(crate) fn weights(&self) -> *mut u8 {
        pointer(&self.program.weights)
    }

    pub(crate) fn arena(&self) -> *mut u8 {
        pointer(&self.arena)
    }

    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Drops the graphs: they hold addresses that are no longer to be used.
    fn forget(&mut self) {
        self.recordings.iter_mut().for_each(|r| *r = Recording::New);
    }

    /// Runs the launches of an entry that `launches` makes one by one, the same in each run of a binding.
    pub(crate) fn run_fixed(&mut self, entry: usize, launches: impl FnOnce(&mut Engine) -> Result<()>) -> Result<()> {
        let graph = match std::mem::replace(&mut self.recordings[entry], Recording::New) {
            Recording::New => {
                launches(self)?;
                self.recordings[entry] = Recording::Run;
                return Ok(());
            }
            Recording::Run => {
                Graph::begin(&self.stream)?;
                let done = launches(self);
                Graph::end(&self.stream, done)?
            }
            Recording::Made(graph) => graph,
        };
        graph.launch(&self.stream)?;
        self.recordings[entry] = Recording::Made(graph);
        Ok(())
    }

    /// Replaces the arena.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.forget();
        let device = self.stream.device().clone();
        self.arena = Memory::new(&device, 0, "the arena on the device")?;
        self.arena = Memory::new(&device, bytes, "the arena on the device")?;
        Ok(())
    }

    /// The addresses and sizes of the states.
    pub(crate) fn states(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        self.states.iter().map(|state| (pointer(state), state.len()))
    }

    pub(crate) fn clear_state(&self, state: usize) -> Result<()> {
        self.stream.clear(self.states[state].start(), self.states[state].len())
    }

    /// The graph of an entry holds launches that are no longer its own, or addresses that it no longer uses.
    pub(crate) fn forget_entry(&mut self, entry: usize) {
        self.recordings[entry] = Recording::New;
    }

    /// Memory for an input or output of an entry, which keeps what it had for smaller ones.
    pub(crate) fn port(&mut self, entry: usize, port: usize, bytes: usize) -> Result<*mut u8> {
        let device = self.stream.device();
        while self.ports[entry].len() <= port {
            self.ports[entry].push(Memory::new(device, 0, PORT)?);
        }
        let memory = &mut self.ports[entry][port];
        if bytes > memory.len() {
            // What there was goes before what takes its place comes.
            *memory = Memory::new(device, 0, PORT)?;
            self.recordings[entry] = Recording::New;
            self.ports[entry][port] = Memory::new(device, bytes, PORT)?;
        }
        Ok(pointer(&self.ports[entry][port]))
    }

    /// Zeros on the device for a tensor of the caller's.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<(*mut u8, Memory)> {
        let memory = Memory::new(self.stream.device(), bytes, "a tensor on the device")?;
        self.stream.clear(memory.start(), bytes)?;
        self.stream.wait()?;
        Ok((pointer(&memory), memory))
    }

    /// A copy on the device of bytes of the host.
    pub(crate) fn upload_new(&self, bytes: &[u8]) -> Result<(*mut u8, Memory)> {
        let memory = Memory::new(self.stream.device(), bytes.len(), "a tensor on the device")?;
        self.stream.upload(memory.start(), bytes)?;
        self.stream.wait()?;
        Ok((pointer(&memory), memory))
    }

    pub(crate) fn stream(&self) -> Handle {
        self.stream.handle()
    }

    /// Starts a run.
    pub(crate) fn begin(&self) -> Result<()> {
        self.stream.clear(self.status.start(), self.status.len())
    }

    /// Copies the bytes of an input to its memory.
    ///
    /// # Safety
    /// `from` has `len` bytes until [`Engine::wait`].
    pub(crate) unsafe fn upload(&self, entry: usize, port: usize, from: *const u8, len: usize) -> Result<()> {
        // SAFETY: as the caller says; a slice of no bytes starts anywhere but at null.
        let bytes = if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(from, len) } };
        self.stream.upload(self.ports[entry][port].start(), bytes)
    }

    /// Copies a port from the device; the bytes are there after [`Engine::wait`].
    ///
    /// # Safety
    /// `to` has room for `len` bytes until then.
    pub(crate) unsafe fn download(&self, to: *mut u8, entry: usize, port: usize, len: usize) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { self.stream.download(to, self.ports[entry][port].start(), len) }
    }

    /// Copies what the kernels have to say; [`Engine::failed`] has it after [`Engine::wait`].
    pub(crate) fn download_status(&mut self) -> Result<()> {
        let (to, len) = (self.host_status.as_mut_ptr().cast(), self.status.len());
        // SAFETY: the words have this many bytes and live as long as the stream, which waits when it goes.
        unsafe { self.stream.download(to, self.status.start(), len) }
    }

    /// The first kernel that failed in the last run, and its status.
    pub(crate) fn failed(&self) -> Option<(usize, i32)> {
        self.host_status.iter().position(|s| *s != 0).map(|kernel| (kernel, self.host_status[kernel]))
    }

    /// Waits for what has been launched.
    pub(crate) fn wait(&self) -> Result<()> {
        self.stream.wait()
    }

    /// Reads a few bytes of the device after all launches before.
    pub(crate) fn read<const N: usize>(&self, from: *const u8) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the array is there until the wait below.
        unsafe { self.stream.download(bytes.as_mut_ptr(), from.addr() as Address, N) }?;
        self.stream.wait()?;
        Ok(bytes)
    }

    /// Guards of launches that depend on the flag in a place, inside of what `around` guards.
    pub(crate) fn guards(&mut self, flag: *const u8, around: Option<Guard>) -> Result<Sides> {
        let control = control(&mut self.control, &self.stream)?;
        control.sides(&self.stream, flag.addr() as Address, around)
    }

    /// Puts an element of i64 into a place for the launches to come.
    pub(crate) fn set(&mut self, to: *mut u8, value: i64) -> Result<()> {
        control(&mut self.control, &self.stream)?.set(&self.stream, to.addr() as Address, value)
    }

    /// A launch, waited for, and how long the device took for it.
    pub(crate) fn launch_timed(&mut self, launch: &Launch<'_>) -> Result<Duration> {
        self.stream.wait()?;
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => Timer::new(self.stream.device())?,
        };
        timer.start(&self.stream)?;
        self.launch(launch)?;
        let time = timer.stop(&self.stream)?;
        self.timer = Some(timer);
        Ok(time)
    }

    pub(crate) fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        let fail = |problem: &str| Error::Gpu { what: launch.names.label.clone(), problem: problem.to_owned() };
        let grid = launch.names.grid.ok_or_else(|| fail("the kernel has no grid"))?;
        let task_bytes = launch.sizes.last().copied().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let block_bytes = task_bytes.saturating_mul(u64::from(grid.block_tasks));
        let wanted = (launch.tasks as u64).div_ceil(u64::from(grid.block_tasks));
        let most = SCRATCH.checked_div(block_bytes).unwrap_or(u64::MAX).max(1);
        let function = self.program.functions[launch.kernel as usize];
        let blocks = wanted.min(most).min(u64::from(function.blocks));
        let scratch_bytes = blocks.saturating_mul(block_bytes) as usize;
        if scratch_bytes > 0 && COUNTER_BYTES + scratch_bytes > self.scratch.len() {
            // Launches under way still use the one there is.
            self.stream.wait()?;
            self.forget();
            let device = self.stream.device().clone();
            self.scratch = Memory::new(&device, 0, "scratch memory on the device")?;
            self.scratch = Memory::new(&device, COUNTER_BYTES + scratch_bytes, "scratch memory on the device")?;
            self.stream.clear(self.scratch.start(), COUNTER_BYTES)?;
        }
        let guard = launch.guard.zip(self.control.as_ref()).map_or(0, |(guard, control)| control.address(guard));
        let last = [
            launch.tasks as u64,
            self.scratch.start() + COUNTER_BYTES as u64,
            self.status.start() + u64::from(launch.kernel) * size_of::<i32>() as u64,
            guard,
        ];
        self.params.clear();
        let param = |p: *const u64| p.cast_mut().cast::<c_void>();
        self.params.extend(launch.bufs.iter().map(|b| std::ptr::from_ref(b).cast_mut().cast::<c_void>()));
        self.params.extend(launch.sizes.iter().map(|s| std::ptr::from_ref(s).cast_mut().cast::<c_void>()));
        self.params.extend(last.iter().map(|v| param(v)));
        self.maps.clear();
        for map in &launch.names.maps {
            let at = launch.bufs.get(map.arg as usize).ok_or_else(|| fail("a tensor map of no argument"))?;
            let (device, label) = (self.stream.device(), &launch.names.label);
            self.maps.push(map::encode(device, label, map, launch.symbols, at.addr() as Address)?);
        }
        self.params.extend(self.maps.iter().map(|map| std::ptr::from_ref(map).cast_mut().cast::<c_void>()));
        let size = (blocks as u32, grid.threads, grid.shared_bytes);
        // SAFETY: the plan's arguments are those of the kernel by contract, of 8 bytes and then its maps, and name memory of this engine.
        unsafe { self.stream.launch(&launch.names.label, function, size, &mut self.params) }
    }
}

/// The code for control flow, loaded when it is first needed. The first run of a plan is not captured, so it can be.
fn control<'a>(control: &'a mut Option<Control>, stream: &Stream) -> Result<&'a Control> {
    Ok(match control {
        Some(control) => control,
        none => none.insert(Control::new(stream.device())?),
    })
}

/// An address on the device in the form in which bindings hold addresses. The host never goes there.
fn pointer(memory: &Memory) -> *mut u8 {
    std::ptr::without_provenance_mut(memory.start() as usize)
}

/// The GPU of the driver, or of the installed one, if the two run the target's code; [`Error::NoGpu`] says why not. Nothing
/// is made on the device.
fn device_for(driver: Option<&Arc<Driver>>, target: &TargetInfo) -> Result<Arc<Device>> {
    let device = Device::open(driver.map_or_else(Driver::load, |d| Ok(d.clone()))?)?;
    device.supports(target)?;
    Ok(device)
}

/// Whether there is a GPU for the target; [`Error::NoGpu`] says why not.
pub(crate) fn runs(driver: Option<&Arc<Driver>>, target: &TargetInfo) -> Result<()> {
    device_for(driver, target).map(drop)
}

/// Whether there is a GPU for code of this level that needs such versions of PTX (`ptx8.0`); [`Error::NoGpu`] says why not.
pub fn serves(driver: Option<&Arc<Driver>>, level: Level, features: &[String]) -> Result<()> {
    Device::open(driver.map_or_else(Driver::load, |d| Ok(d.clone()))?)?.serves(level, features)
}

/// The first GPU in words, or why there is none.
pub fn describe() -> Result<String> {
    Ok(Device::open(Driver::load()?)?.describe())
}

/// What the driver says of its first device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub name: String,
    /// Compute capability, as major and minor.
    pub capability: (i32, i32),
    pub multiprocessors: i32,
    /// Of the multiprocessors, at its highest.
    pub clock_khz: i32,
    /// The version of CUDA that the driver supports, as major and minor.
    pub driver: (i32, i32),
}

impl Facts {
    /// Of the driver's device, or of the installed driver's.
    pub fn of(driver: Option<&Arc<Driver>>) -> Result<Facts> {
        Device::open(driver.map_or_else(Driver::load, |d| Ok(d.clone()))?)?.facts()
    }
}
