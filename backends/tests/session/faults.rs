//! What is left of a session when its device has no memory, or is lost, or is another one than the artifact has code for.

use super::{Both, build, emulator, floats, raw};
use crate::harness::{Built, build_for, levels};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::{
    Error, Session, SessionOptions,
    cuda::{Address, DeviceId, Driver, Functions, Handle, Status},
};
use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    ffi::{c_char, c_int, c_uint, c_void},
    sync::{Arc, LazyLock},
};

/// Weights, temporaries, a state, a branch, a kernel with scratch memory.
const TEXT: &str = "module @m stage=legal {
    dim B = 1..100000
    dim P = 0..64
    weights %%0 = \"w\"
    param %w : f32[5,3] = %%0 \"w\"
    state @s : f32[P] grows=0 capacity=64 lifetime=session
    entry @f(%i: i64[B], %c: i1[], %x: f32[1]) -> (y: f32[B], z: f32[P + 1], k: i64[B], a: f64[1,1,B,3]) {
      %0 = gather %w, %i axis=0 : f32[B,3]
      %1 = reduce %0 kind=sum axes=[1] keep=false : f32[B]
      %2 = if %c then() { %3 = neg %1 : f32[B] yield %3 } else() { yield %1 } : f32[B]
      %4 = state.append %x state=@s : f32[P + 1]
      %5, %6 = topk %2 k=B axis=0 : f32[B], i64[B]
      %7 = convert %0 to=f64 : f64[B,3]
      %8 = reshape %7 to=[1,1,B,3] : f64[1,1,B,3]
      %9 = attention %8, %8, %8 scale=0.5 causal=false layout=bhsd : f64[1,1,B,3]
      return %5, %4, %6, %9
    }
  }";

fn built() -> &'static Built {
    static BUILT: LazyLock<Built> = LazyLock::new(|| build(TEXT));
    &BUILT
}

fn driver(change: impl FnOnce(&mut Functions)) -> Arc<Driver> {
    let mut functions = emulator::functions();
    change(&mut functions);
    Driver::new(functions).unwrap()
}

fn open(built: &Built, driver: &Arc<Driver>) -> Result<Session, Error> {
    let target = Some(Level::Cuda(Sm::Sm90a).name());
    Session::new(&built.artifact, SessionOptions { driver: Some(driver.clone()), target, ..Default::default() })
}

/// A run on so many indices; what it says of the state.
fn run(session: &mut Session, rows: usize) -> Result<Vec<u8>, Error> {
    let i = eval::Tensor::ints(ElemType::I64, [rows], (0..rows as i64).map(|i| i % 5).collect());
    let inputs = [("i", raw(&i)), ("c", raw(&super::int(ElemType::I1, 1))), ("x", raw(&floats(&[1], rows)))];
    let views: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.view())).collect();
    Ok(session.entry("f")?.run(&views)?.get("y").unwrap().bytes().to_vec())
}

thread_local! {
    /// Allocations until one fails, if any is to.
    static UNTIL: Cell<Option<usize>> = const { Cell::new(None) };
    static LOST: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" fn scarce(address: *mut Address, bytes: usize) -> Status {
    match UNTIL.get() {
        Some(0) => return emulator::OUT_OF_MEMORY,
        Some(n) => UNTIL.set(Some(n - 1)),
        None => {}
    }
    unsafe { (emulator::functions().memory_alloc)(address, bytes) }
}

/// Every allocation fails once: for weights, states, the arena, inputs and outputs, scratch memory, guards.
#[test]
fn whatever_memory_is_missing_the_session_goes_on() {
    let mut missing = BTreeSet::new();
    let driver = driver(|f| f.memory_alloc = scarce);
    for n in 0.. {
        // A new artifact, so that the weights are loaded anew.
        let fresh = kiln_runtime::Artifact::from_bytes(&built().bytes).unwrap();
        let options = || SessionOptions {
            driver: Some(driver.clone()),
            target: Some(Level::Cuda(Sm::Sm90a).name()),
            ..Default::default()
        };
        UNTIL.set(Some(n));
        let opened = Session::new(&fresh, options());
        let first = opened.map(|mut session| {
            let done = run(&mut session, 40);
            (session, done)
        });
        let enough = UNTIL.get() != Some(0);
        UNTIL.set(None);
        let what = |e: &Error| match e {
            Error::Memory { what, .. } => *what,
            e => panic!("allocation {n}: {e}"),
        };
        let (mut session, done) = match first {
            Ok((session, done)) => (session, done),
            Err(e) => {
                missing.insert(what(&e));
                (Session::new(&fresh, options()).unwrap(), Ok(vec![]))
            }
        };
        let held = session.held("s");
        match done {
            Ok(_) if enough => break,
            Ok(_) => {}
            Err(e) => {
                missing.insert(what(&e));
                assert_eq!(held, Some(0));
            }
        }
        // Smaller, as large again, and once more for the graph.
        for rows in [3, 40, 40, 40] {
            let mut other = open(built(), &emulator::driver()).unwrap();
            assert_eq!(run(&mut session, rows).unwrap(), run(&mut other, rows).unwrap(), "allocation {n}");
        }
        assert_eq!(session.held("s"), held.map(|held| held + 4));
    }
    let wanted = [
        "a state on the device",
        "an input or output on the device",
        "guards on the device",
        "scratch memory on the device",
        "status words on the device",
        "the arena on the device",
        "the weights on the device",
    ];
    assert_eq!(missing.into_iter().collect::<Vec<_>>(), wanted);
}

const ILLEGAL_ADDRESS: Status = 700;

macro_rules! while_there {
    ($($name:ident ($($arg:ident: $ty:ty),*);)*) => {
        $(unsafe extern "C" fn $name($($arg: $ty),*) -> Status {
            if LOST.get() { ILLEGAL_ADDRESS } else { unsafe { (emulator::functions().$name)($($arg),*) } }
        })*
        fn that_can_be_lost(functions: &mut Functions) {
            $(functions.$name = $name;)*
        }
    };
}

while_there! {
    context_set(a: Handle);
    module_load(a: *mut Handle, b: *const c_void, c: c_uint, d: *mut c_int, e: *mut *mut c_void);
    module_unload(a: Handle);
    module_function(a: *mut Handle, b: Handle, c: *const c_char);
    memory_alloc(a: *mut Address, b: usize);
    memory_free(a: Address);
    copy_to_device(a: Address, b: *const c_void, c: usize, d: Handle);
    copy_to_host(a: *mut c_void, b: Address, c: usize, d: Handle);
    memory_set(a: Address, b: u8, c: usize, d: Handle);
    stream_create(a: *mut Handle, b: c_uint);
    stream_destroy(a: Handle);
    stream_synchronize(a: Handle);
    capture_begin(a: Handle, b: c_int);
    capture_end(a: Handle, b: *mut Handle);
    graph_instantiate(a: *mut Handle, b: Handle, c: *mut Handle, d: *mut c_char, e: usize);
    graph_launch(a: Handle, b: Handle);
    graph_exec_destroy(a: Handle);
    graph_destroy(a: Handle);
    event_create(a: *mut Handle, b: c_uint);
    event_record(a: Handle, b: Handle);
    event_elapsed(a: *mut f32, b: Handle, c: Handle);
    launch(a: Handle, b: c_uint, c: c_uint, d: c_uint, e: c_uint, f: c_uint, g: c_uint, h: c_uint, i: Handle,
        j: *mut *mut c_void, k: *mut *mut c_void);
}

/// Errors that stay, whatever is called: each call says so, and nothing waits or crashes.
#[test]
fn a_lost_device_is_an_error_from_then_on() {
    let driver = driver(that_can_be_lost);
    for runs in 0..4 {
        LOST.set(false);
        let fresh = kiln_runtime::Artifact::from_bytes(&built().bytes).unwrap();
        let options = SessionOptions { driver: Some(driver.clone()), ..Default::default() };
        let mut lost = Session::new(&fresh, options.clone()).unwrap();
        // Before the first run, before the graph is made, before it runs, and after.
        for _ in 0..runs {
            run(&mut lost, 5).unwrap();
        }
        let held = lost.held("s");
        let tensor = lost.tensor(kiln_runtime::format::ElemType::F32, &[4]).unwrap();
        LOST.set(true);
        for rows in [5, 5, 3, 50] {
            let error = run(&mut lost, rows).unwrap_err();
            assert!(matches!(&error, Error::GpuLost { .. }), "{error}");
            assert!(error.to_string().contains("has to be started anew"), "{error}");
        }
        assert_eq!(lost.held("s"), held);
        assert!(matches!(lost.tensor(kiln_runtime::format::ElemType::F32, &[4]), Err(Error::GpuLost { .. })));
        assert!(matches!(Session::new(&fresh, options).err(), Some(Error::GpuLost { .. })));
        lost.reset();
        assert_eq!(lost.held("s"), Some(0));
        drop((tensor, lost, fresh));
    }
    LOST.set(false);
    run(&mut open(built(), &driver).unwrap(), 5).unwrap();
}

unsafe extern "C" fn ampere(value: *mut c_int, which: c_int, _: DeviceId) -> Status {
    unsafe {
        *value = match which {
            75 => 8,
            76 => 0,
            _ => 1 << 10,
        }
    };
    0
}

unsafe extern "C" fn old(version: *mut c_int) -> Status {
    unsafe { *version = 11080 };
    0
}

/// What makes a driver another one.
type Change = fn(&mut Functions);

/// The processor takes over where the GPU or its driver is another one, and the session says why.
#[test]
fn what_is_not_for_this_device_runs_on_the_processor_and_says_so() {
    let cpu = levels().into_iter().next().map(Level::Cpu).unwrap();
    let text = "module @m stage=legal { entry @f(%x: f32[3]) -> (y: f32[3]) { %0 = neg %x : f32[3] return %0 } }";
    let built = build_for(text, &PlanOptions::default(), vec![cpu, Level::Cuda(Sm::Sm90a)], None);
    let cases: [(Change, &str); 2] = [
        (|f| f.device_attribute = ampere, "cuda:sm_90a needs compute capability 9.0, Emulated GPU has 8.0"),
        (|f| f.driver_version = old, "it supports CUDA 11.8, the PTX 8.0 of cuda:sm_90a needs a driver for CUDA 12.0"),
    ];
    for (change, reason) in cases {
        let options = SessionOptions { driver: Some(driver(change)), ..Default::default() };
        let session = Session::new(&built.artifact, options).unwrap();
        assert!(session.passed_over().len() == 1 && session.passed_over()[0].contains(reason));
        let mut both = Both { built: &built, session, states: HashMap::new() };
        assert_eq!(both.target(), cpu.name());
        both.check("f", &[("x", floats(&[3], 1))]);
    }
    let here = SessionOptions { driver: Some(emulator::driver()), ..Default::default() };
    assert_eq!(Session::new(&built.artifact, here).unwrap().passed_over(), [""; 0]);
}

unsafe extern "C" fn taken(_: *mut Handle, _: DeviceId) -> Status {
    emulator::OUT_OF_MEMORY
}

unsafe extern "C" fn absent(_: *mut DeviceId, _: c_int) -> Status {
    ILLEGAL_ADDRESS
}

/// A device that is there and cannot be opened: another process has it for itself, or all of its memory.
#[test]
fn what_cannot_be_opened_leaves_the_work_to_the_processor() {
    let cases: [(Change, &str); 2] =
        [(|f| f.context_retain = taken, "CUDA_ERROR_OUT_OF_MEMORY"), (|f| f.device_get = absent, "700")];
    for (change, reason) in cases {
        let driver = driver(change);
        let options = SessionOptions { driver: Some(driver.clone()), ..Default::default() };
        let session = Session::new(&built().artifact, options).unwrap();
        assert!(!session.artifact().manifest().targets[session.target()].level.is_gpu());
        let why = session.passed_over();
        assert!(why.len() == 1 && why[0].starts_with("the GPU cannot be opened") && why[0].contains(reason), "{why:?}");
        let error = open(built(), &driver).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("the GPU cannot be opened"), "{error}");
    }
}

thread_local! {
    /// Contexts retained and released.
    static CONTEXTS: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
}

unsafe extern "C" fn retained(context: *mut Handle, device: DeviceId) -> Status {
    CONTEXTS.set([CONTEXTS.get()[0] + 1, CONTEXTS.get()[1]]);
    unsafe { (emulator::functions().context_retain)(context, device) }
}

unsafe extern "C" fn released(_: DeviceId) -> Status {
    CONTEXTS.set([CONTEXTS.get()[0], CONTEXTS.get()[1] + 1]);
    0
}

/// A context takes a device's time and memory, so only who runs something has one.
#[test]
fn who_only_asks_makes_no_context() {
    let driver = driver(|f| (f.context_retain, f.context_release) = (retained, released));
    let fresh = kiln_runtime::Artifact::from_bytes(&built().bytes).unwrap();
    let options = SessionOptions { driver: Some(driver.clone()), ..Default::default() };
    let target = fresh.target_for(&options).unwrap();
    assert!(fresh.manifest().targets[target].level.is_gpu());
    let other = self::driver(|f| {
        (f.context_retain, f.context_release) = (retained, released);
        f.device_attribute = ampere;
    });
    assert_eq!(kiln_runtime::cuda::Facts::of(Some(&other)).unwrap().capability, (8, 0));
    assert_eq!(CONTEXTS.get(), [0, 0]);
    let session = Session::new(&fresh, options).unwrap();
    assert_eq!(CONTEXTS.get(), [1, 0]);
    drop((session, fresh));
    assert_eq!(CONTEXTS.get(), [1, 1]);
}

unsafe extern "C" fn endless(milliseconds: *mut f32, _: Handle, _: Handle) -> Status {
    unsafe { *milliseconds = [f32::INFINITY, f32::NAN, -1.0, f32::MAX][TIMED.get() % 4] };
    TIMED.set(TIMED.get() + 1);
    0
}

thread_local! {
    static TIMED: Cell<usize> = const { Cell::new(0) };
}

/// Hears times.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<std::time::Duration>>);

impl kiln_runtime::Profile for Heard {
    fn launch(&self, event: &kiln_runtime::LaunchEvent) {
        self.0.lock().unwrap().push(event.duration);
    }
}

#[test]
fn a_time_that_is_none_is_nothing() {
    let heard = Arc::<Heard>::default();
    let options = SessionOptions {
        driver: Some(driver(|f| f.event_elapsed = endless)),
        profile: Some(heard.clone()),
        ..Default::default()
    };
    run(&mut Session::new(&built().artifact, options).unwrap(), 5).unwrap();
    let heard = heard.0.lock().unwrap();
    assert!(heard.len() >= 4 && heard.iter().all(std::time::Duration::is_zero), "{heard:?}");
}
