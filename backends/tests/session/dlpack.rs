//! Tensors that other libraries share, in host and device memory.

use super::{Both, Built, build, emulator, floats, raw, sessions};
use kiln_ir::eval;
use kiln_runtime::{
    DlTensor, Error,
    dlpack::{CPU, CUDA, DataType, Device, ManagedTensor, READ_ONLY, RawTensor, Version},
    format::ElemType,
};
use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

const TEXT: &str = "module @m stage=legal {
    dim S = 0..100
    entry @f(%x: f32[S,3], %y: f32[3]) -> (z: f32[S,3], w: f32[S]) {
      %0 = add %x, %y : f32[S,3]
      %1 = reduce %0 kind=sum axes=[1] keep=false : f32[S]
      return %0, %1
    }
  }";

fn built() -> &'static Built {
    static BUILT: LazyLock<Built> = LazyLock::new(|| build(TEXT));
    &BUILT
}

/// The bytes of a tensor; the memory of the emulated device is the host's.
fn bytes(tensor: &DlTensor) -> &[u8] {
    if tensor.is_empty() { &[] } else { unsafe { std::slice::from_raw_parts(tensor.data(), tensor.len()) } }
}

/// A tensor where the session runs.
fn placed(both: &mut Both<'_>, value: &eval::Tensor) -> DlTensor {
    let tensor = both.session.copy_of(raw(value).view()).unwrap();
    assert_eq!(tensor.device().device_type, if both.is_gpu() { CUDA } else { CPU });
    assert_eq!(bytes(&tensor), value.to_bytes());
    tensor
}

fn expected(both: &Both<'_>, x: &eval::Tensor, y: &eval::Tensor) -> Vec<Vec<u8>> {
    let given = [("x", x), ("y", y)].map(|(name, t)| (name.to_string(), t.clone())).into();
    let outputs = eval::run(&both.built.module, "f", &given, &eval::no_weights).unwrap();
    outputs.iter().map(|(_, t)| t.to_bytes()).collect()
}

#[test]
fn tensors_on_the_device_are_not_copied() {
    let built = built();
    for mut both in sessions(built) {
        let before = emulator::graphs();
        for rows in [5, 5, 0, 7] {
            let (x, y) = (floats(&[rows, 3], rows), floats(&[3], 90));
            let (a, b) = (placed(&mut both, &x), placed(&mut both, &y));
            let given = [("x", &a), ("y", &b)];
            let mut made = both.session.entry("f").unwrap().outputs_for(&given).unwrap();
            let wanted = expected(&both, &x, &y);
            // The last of the runs are a graph on a GPU.
            for _ in 0..3 {
                let copied = emulator::copied();
                let mut outputs: Vec<_> = made.iter_mut().map(|(name, t)| (name.as_str(), t)).collect();
                both.session.entry("f").unwrap().run_dlpack(&given, &mut outputs).unwrap();
                let kernels = built.artifact.manifest().targets[both.session.target()].kernels.len();
                let status = if both.is_gpu() { 4 * kernels } else { 0 };
                assert_eq!(emulator::copied() - copied, status, "{}", both.target());
                let found: Vec<&[u8]> = made.iter().map(|(_, t)| bytes(t)).collect();
                assert_eq!(found, wanted, "{} {rows}", both.target());
            }
        }
        assert!(!both.is_gpu() || emulator::graphs() >= before + 6);
        assert_eq!(both.session.cuda_stream().is_some(), both.is_gpu());
    }
}

#[test]
fn tensors_of_the_host_and_the_device_stand_side_by_side() {
    let built = built();
    for mut both in sessions(built) {
        let (x, y) = (floats(&[4, 3], 1), floats(&[3], 2));
        let wanted = expected(&both, &x, &y);
        let (a, b) = (DlTensor::from_tensor(raw(&x)), placed(&mut both, &y));
        let mut z = both.session.tensor(ElemType::F32, &[4, 3]).unwrap();
        let mut w = DlTensor::from_tensor(kiln_runtime::Tensor::zeros(ElemType::F32, &[4]).unwrap());
        for _ in 0..3 {
            let mut entry = both.session.entry("f").unwrap();
            entry.run_dlpack(&[("x", &a), ("y", &b)], &mut [("z", &mut z), ("w", &mut w)]).unwrap();
            assert_eq!([bytes(&z), bytes(&w)], [&wanted[0][..], &wanted[1]], "{}", both.target());
            assert_eq!(w.view().unwrap().bytes(), wanted[1]);
            // In between on tensors of the host alone.
            both.check("f", &[("x", floats(&[4, 3], 7)), ("y", floats(&[3], 8))]);
        }
    }
}

#[test]
fn who_takes_a_tensor_frees_it() {
    let built = built();
    for mut both in sessions(built) {
        let tensor = placed(&mut both, &floats(&[2, 3], 1));
        let (at, gpu) = (tensor.data() as u64, both.is_gpu());
        let exported = tensor.export();
        let managed = unsafe { &*exported };
        assert_eq!((managed.version.major, managed.flags, managed.tensor.ndim), (1, 0, 2));
        assert_eq!(managed.tensor.dtype, DataType { code: 2, bits: 32, lanes: 1 });
        assert_eq!(unsafe { [*managed.tensor.shape, *managed.tensor.shape.add(1)] }, [2, 3]);
        assert_eq!(unsafe { [*managed.tensor.strides, *managed.tensor.strides.add(1)] }, [3, 1]);
        // It outlives the session.
        drop(both);
        assert_eq!(emulator::is_allocated(at), gpu);
        let taken = unsafe { DlTensor::import(exported) }.unwrap();
        assert_eq!((taken.elem(), taken.shape()), (ElemType::F32, &[2, 3][..]));
        drop(taken);
        assert!(!gpu || !emulator::is_allocated(at));
    }
}

static DELETED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn deleted(_: *mut ManagedTensor) {
    DELETED.fetch_add(1, Ordering::Relaxed);
}

/// A tensor `f32[2,3]` of another library's.
struct Foreign {
    data: Box<[u128; 64]>,
    shape: [i64; 2],
    strides: [i64; 2],
    managed: ManagedTensor,
}

fn foreign(change: impl FnOnce(&mut Foreign)) -> Box<Foreign> {
    let mut foreign = Box::new(Foreign {
        data: Box::new([0; 64]),
        shape: [2, 3],
        strides: [3, 1],
        managed: ManagedTensor {
            version: Version { major: 1, minor: 3 },
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(deleted),
            flags: 0,
            tensor: RawTensor {
                data: std::ptr::null_mut(),
                device: Device { device_type: CPU, device_id: 0 },
                ndim: 2,
                dtype: DataType { code: 2, bits: 32, lanes: 1 },
                shape: std::ptr::null_mut(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
        },
    });
    foreign.managed.tensor.data = foreign.data.as_mut_ptr().cast();
    foreign.managed.tensor.shape = foreign.shape.as_mut_ptr();
    foreign.managed.tensor.strides = foreign.strides.as_mut_ptr();
    change(&mut foreign);
    foreign
}

#[test]
fn what_is_no_dense_tensor_of_a_known_type_is_refused_and_stays_the_callers() {
    type Change = fn(&mut Foreign);
    let cases: [(Change, &str); 13] = [
        (|f| f.managed.version.major = 2, "expected version 1, found 2.3"),
        (|f| f.managed.tensor.device.device_type = 7, "found device type 7"),
        (|f| f.managed.tensor.device.device_id = -1, "there is no device -1"),
        (|f| f.managed.tensor.dtype.lanes = 4, "code 2, 32 bits, 4 lanes"),
        (|f| f.managed.tensor.dtype.code = 5, "code 5, 32 bits, 1 lanes"),
        (|f| f.managed.tensor.ndim = 17, "17 dimensions"),
        (|f| f.managed.tensor.ndim = -1, "-1 dimensions"),
        (|f| f.managed.tensor.shape = std::ptr::null_mut(), "the shape is null"),
        (|f| f.shape[0] = -2, "no memory holds f32[-2, 3]"),
        (|f| f.shape = [i64::MAX; 2], "no memory holds"),
        (|f| f.strides = [1, 2], "expected a dense tensor with strides [3, 1], found [1, 2]"),
        (|f| f.managed.tensor.data = std::ptr::null_mut(), "the data is null"),
        (|f| f.managed.tensor.byte_offset = 2, "byte offset 2 is not aligned to the 4 bytes of f32"),
    ];
    for (change, expected) in cases {
        let mut made = foreign(change);
        let error = unsafe { DlTensor::import(&mut made.managed) }.unwrap_err().to_string();
        assert!(error.starts_with("tensor: DLPack: ") && error.contains(expected), "{error}");
    }
    assert!(unsafe { DlTensor::import(std::ptr::null_mut()) }.is_err());
    assert_eq!(DELETED.load(Ordering::Relaxed), 0);
    let fine: [Change; 5] = [
        |_| {},
        |f| f.managed.tensor.strides = std::ptr::null_mut(),
        |f| (f.shape, f.strides) = ([1, 3], [77, 1]),
        |f| (f.shape, f.managed.tensor.data) = ([0, 3], std::ptr::null_mut()),
        |f| f.managed.tensor.byte_offset = 8,
    ];
    for (n, change) in fine.into_iter().enumerate() {
        let mut made = foreign(change);
        let tensor = unsafe { DlTensor::import(&mut made.managed) }.unwrap();
        assert_eq!(tensor.data().addr() - made.managed.tensor.data.addr(), made.managed.tensor.byte_offset as usize);
        drop(tensor);
        assert_eq!(DELETED.load(Ordering::Relaxed), n + 1);
    }
}

#[test]
fn what_a_session_cannot_use_where_it_is_is_refused() {
    let built = built();
    let on = |device_type: i32, device_id: i32, offset: u64| {
        foreign(move |f| {
            f.managed.tensor.device = Device { device_type, device_id };
            f.managed.tensor.byte_offset = offset;
            f.managed.deleter = None;
        })
    };
    for mut both in sessions(built) {
        let gpu = both.is_gpu();
        let y = placed(&mut both, &floats(&[3], 1));
        let mut z = both.session.tensor(ElemType::F32, &[2, 3]).unwrap();
        let mut w = both.session.tensor(ElemType::F32, &[2]).unwrap();
        let mut run = |x: &DlTensor, z: &mut DlTensor| -> Result<(), Error> {
            both.session.entry("f")?.run_dlpack(&[("x", x), ("y", &y)], &mut [("z", z), ("w", &mut w)])
        };
        let mut elsewhere = on(CUDA, 1, 0);
        let x = unsafe { DlTensor::import(&mut elsewhere.managed) }.unwrap();
        let error = run(&x, &mut z).unwrap_err().to_string();
        let here = if gpu { "the session runs on device 0" } else { "the session runs on a processor" };
        assert!(error.contains(&format!("x: it is on CUDA device 1, {here}")), "{error}");
        // Addresses that kernels for GPUs would not take.
        let mut askew = on(CUDA, 0, 4);
        let start = askew.managed.tensor.data.addr() as u64;
        askew.managed.tensor.byte_offset = start.next_multiple_of(256) - start + 16;
        let x = unsafe { DlTensor::import(&mut askew.managed) }.unwrap();
        let error = run(&x, &mut z).unwrap_err().to_string();
        let problem = if gpu { "16 bytes behind a multiple of 256" } else { "on CUDA device 0" };
        assert!(error.contains(problem), "{error}");
        // Outputs that are not to be written.
        let mut constant = foreign(|f| (f.managed.flags, f.managed.deleter) = (READ_ONLY, None));
        let mut constant = unsafe { DlTensor::import(&mut constant.managed) }.unwrap();
        let mut other = on(CPU, 0, 0);
        let x = unsafe { DlTensor::import(&mut other.managed) }.unwrap();
        let error = run(&x, &mut constant).unwrap_err().to_string();
        assert!(error.contains("z: it is read-only"), "{error}");
        let mut alias = on(CPU, 0, 8);
        alias.managed.tensor.data = other.managed.tensor.data;
        let mut alias = unsafe { DlTensor::import(&mut alias.managed) }.unwrap();
        let error = run(&x, &mut alias).unwrap_err().to_string();
        assert!(error.contains("z: it shares memory with x"), "{error}");
        // Wrong types and shapes are refused as everywhere.
        let mut long = on(CPU, 0, 0);
        (long.managed.tensor.dtype, long.shape) = (DataType { code: 0, bits: 32, lanes: 1 }, [2, 3]);
        let x = unsafe { DlTensor::import(&mut long.managed) }.unwrap();
        assert!(matches!(run(&x, &mut z), Err(Error::Input { .. })));
        let mut other = on(CPU, 0, 0);
        let x = unsafe { DlTensor::import(&mut other.managed) }.unwrap();
        run(&x, &mut z).unwrap();
    }
}
