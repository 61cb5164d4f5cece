//! Running artifacts: results, control flow, threads, and errors.
#![cfg(all(target_arch = "x86_64", feature = "write"))]

mod support;

use kiln_runtime::format::ElemType;
use kiln_runtime::{
    Artifact, Error, LaunchEvent, Loader, OpenOptions, Profile, Session, SessionOptions, Tensor, TensorMut, TensorView,
    Verify,
};
use std::sync::{Arc, Mutex};
use support::pool_executor::{Confused, Idle, Panicking, Scoped};
use support::zoo;

fn threads(n: usize) -> SessionOptions {
    SessionOptions { threads: Some(n), ..SessionOptions::default() }
}

fn artifact() -> Artifact {
    Artifact::from_bytes(&zoo().bytes()).unwrap()
}

fn session(options: SessionOptions) -> Session {
    Session::new(&artifact(), options).unwrap()
}

fn run_f32(session: &mut Session, entry: &str, x: &[f32]) -> Vec<f32> {
    let shape = [x.len()];
    let outputs = session.entry(entry).unwrap().run(&[("x", TensorView::of(&shape, x).unwrap())]).unwrap();
    outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec()
}

fn run_scalar(session: &mut Session, entry: &str, inputs: &[(&str, TensorView)]) -> Result<i64, Error> {
    let outputs = session.entry(entry).unwrap().run(inputs)?;
    Ok(outputs.get("y").unwrap().as_slice::<i64>().unwrap()[0])
}

#[test]
fn kernels_run_at_changing_shapes() {
    let mut session = session(threads(1));
    for n in [1, 5, 1000, 3] {
        let x: Vec<f32> = (0..n).map(|i| i as f32 - 1.5).collect();
        let expected: Vec<f32> = x.iter().map(|v| 4.0 * v).collect();
        assert_eq!(run_f32(&mut session, "quadruple", &x), expected);
    }
}

#[test]
fn both_loaders_make_code_callable() {
    for loader in [Loader::System, Loader::Builtin, Loader::Auto] {
        let mut session = session(SessionOptions { loader, ..threads(1) });
        assert_eq!(run_f32(&mut session, "quadruple", &[1.0, 2.0]), [4.0, 8.0], "{loader:?}");
        assert_eq!(run_scalar(&mut session, "relocated", &[]).unwrap(), 4242, "{loader:?}");
    }
}

#[test]
fn libraries_of_several_artifacts_stay_apart() {
    let other = support::Model::new().entry("none", &[], &[], vec![vec![]]).bytes();
    let options = || SessionOptions { loader: Loader::System, ..threads(1) };
    let mut sessions = Vec::new();
    for round in 0..4 {
        let bytes = if round % 2 == 0 { zoo().bytes() } else { other.clone() };
        sessions.push(Session::new(&Artifact::from_bytes(&bytes).unwrap(), options()).unwrap());
    }
    sessions.drain(1..);
    assert_eq!(run_f32(&mut sessions[0], "quadruple", &[3.0]), [12.0]);
}

#[test]
fn results_do_not_depend_on_threads() {
    let x: Vec<f32> = (0..997).map(|i| (i as f32).sin()).collect();
    let ids: Vec<i64> = (0..997).collect();
    let shape = [997];
    let mut reference = None;
    for n in [1, 2, 3, 7] {
        let mut session = session(threads(n));
        assert_eq!(session.threads(), n);
        for _ in 0..50 {
            let y = run_f32(&mut session, "quadruple", &x);
            assert_eq!(*reference.get_or_insert_with(|| y.clone()), y, "{n} threads");
            let view = TensorView::of(&shape, &x).unwrap();
            let outputs = session.entry("tasks").unwrap().run(&[("x", view)]).unwrap();
            assert_eq!(outputs.get("y").unwrap().as_slice::<i64>().unwrap(), ids, "scratch is shared at {n} threads");
        }
    }
}

#[test]
fn the_default_number_of_threads_obeys_affinity() {
    let limited = std::thread::spawn(|| {
        // SAFETY: zeros are an empty set, and the calls stay within it.
        let failed = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set)
        };
        assert_eq!(failed, 0);
        session(SessionOptions::default()).threads()
    });
    assert_eq!(limited.join().unwrap(), 1);
}

#[test]
fn workers_wake_after_sleeping() {
    let mut session = session(threads(3));
    for _ in 0..5 {
        assert_eq!(run_f32(&mut session, "quadruple", &[1.0; 300]), [4.0; 300]);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn the_caller_may_bring_an_executor() {
    let scoped = Arc::new(Scoped::default());
    let x = [2.0; 100];
    let with = |executor| SessionOptions { executor: Some(executor), ..SessionOptions::default() };
    let mut using = session(with(scoped.clone()));
    assert_eq!((using.threads(), run_f32(&mut using, "quadruple", &x)), (3, vec![8.0; 100]));
    assert_eq!(scoped.uses.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert_eq!(run_f32(&mut session(with(Arc::new(Idle))), "quadruple", &x), [8.0; 100]);
    let mut confused = session(with(Arc::new(Confused)));
    let view = TensorView::of(&[100], &x).unwrap();
    let outputs = confused.entry("tasks").unwrap().run(&[("x", view)]).unwrap();
    assert_eq!(outputs.get("y").unwrap().as_slice::<i64>().unwrap(), (0..100).collect::<Vec<_>>());
    let failed = session(with(Arc::new(Panicking))).entry("tasks").unwrap().run(&[("x", view)]);
    assert!(matches!(failed, Err(Error::Panicked)), "{failed:?}");
}

#[test]
fn control_flow_is_walked() {
    let mut session = session(threads(2));
    let x = Tensor::of(&[], &[21i64]).unwrap();
    for (flag, expected) in [(0u8, 1), (1, 42), (255, 42)] {
        let flag = [flag];
        let flag = TensorView::new(ElemType::I1, &[], &flag).unwrap();
        assert_eq!(run_scalar(&mut session, "choose", &[("x", x.view()), ("flag", flag)]).unwrap(), expected);
    }
    for (times, expected) in [(-3i64, 0), (0, 0), (1, 0), (5, 20)] {
        let times = Tensor::of(&[], &[times]).unwrap();
        assert_eq!(run_scalar(&mut session, "for", &[("times", times.view())]).unwrap(), expected);
    }
    let room = |n: usize| Tensor::zeros(ElemType::F32, &[n]).unwrap();
    assert_eq!(run_scalar(&mut session, "while", &[("x", room(5).view())]).unwrap(), 5);
    let beyond = run_scalar(&mut session, "while", &[("x", room(4).view())]);
    assert!(matches!(beyond, Err(Error::LoopLimit { max: 4, .. })), "{beyond:?}");
}

#[test]
fn states_live_as_long_as_declared() {
    let mut session = session(threads(1));
    let run = |session: &mut Session, x: i64| {
        let x = Tensor::of(&[], &[x]).unwrap();
        let outputs = session.entry("state").unwrap().run(&[("x", x.view())]).unwrap();
        let value = |name| outputs.get(name).unwrap().as_slice::<i64>().unwrap()[0];
        (value("y"), value("z"))
    };
    assert_eq!(run(&mut session, 5), (5, 5));
    assert_eq!(run(&mut session, 3), (8, 3));
    session.reset();
    assert_eq!(run(&mut session, 1), (1, 1));
}

#[test]
fn a_kernel_that_fails_names_its_node() {
    for n in [1, 2, 3] {
        let mut session = session(threads(n));
        let ids: Vec<i64> = (0..40).map(|i| i % 16).collect();
        let run = |session: &mut Session, ids: &[i64]| {
            let shape = [ids.len()];
            session.entry("gather").unwrap().run(&[("ids", TensorView::of(&shape, ids).unwrap())])
        };
        let y = run(&mut session, &ids).unwrap();
        let expected: Vec<f32> = ids.iter().map(|i| *i as f32).collect();
        assert_eq!(y.get("y").unwrap().as_slice::<f32>().unwrap(), expected);
        for bad in [16, -1, i64::MAX] {
            let mut ids = ids.clone();
            ids[17] = bad;
            let error = run(&mut session, &ids).unwrap_err();
            let expected =
                format!("node_gather: input ids[17] is {bad}, expected an index from 0 to 15 (kernel gather)");
            assert_eq!(error.to_string(), expected);
        }
        // The session is as good as before.
        assert_eq!(run(&mut session, &ids).unwrap().get("y").unwrap().as_slice::<f32>().unwrap(), expected);
        let x = [0f32; 9];
        let error = session.entry("fails").unwrap().run(&[("x", TensorView::of(&[9], &x).unwrap())]).unwrap_err();
        assert_eq!(error.to_string(), "node_fails: the kernel fails failed with code 7");
    }
}

#[test]
fn wrong_inputs_are_listed_all_at_once() {
    let mut session = session(threads(1));
    let error = |session: &mut Session, entry: &str, inputs: &[(&str, TensorView)]| {
        session.entry(entry).unwrap().run(inputs).unwrap_err().to_string()
    };
    let takes =
        "entry shapes takes a: f32[n, even], b: i64[n + 1, 3]; n from 1 to 1000, even from 2 to 64 in steps of 2";
    let (f, i) = (
        |s: &[usize]| Tensor::zeros(ElemType::F32, s).unwrap(),
        |s: &[usize]| Tensor::zeros(ElemType::I64, s).unwrap(),
    );
    assert_eq!(
        error(&mut session, "shapes", &[("c", f(&[1]).view()), ("b", f(&[2]).view())]),
        format!(
            "input c: there is no such input\ninput a: missing\ninput b: element type f32, expected i64\n\
             input b: 1 dimensions, expected 2\n{takes}"
        )
    );
    assert_eq!(
        error(&mut session, "shapes", &[("a", f(&[0, 67]).view()), ("b", i(&[1, 4]).view())]),
        format!(
            "input b: dimension 1 is 4, expected 3\ninput a: n is 0, expected at least 1\n\
             input a: even is 67, expected at most 64\ninput a: even is 67, expected a multiple of 2\n{takes}"
        )
    );
    assert_eq!(
        error(&mut session, "shapes", &[("a", f(&[4, 2]).view()), ("b", i(&[4, 3]).view())]),
        format!("input b: dimension 0 is 4, expected n + 1 = 5\n{takes}")
    );
    assert_eq!(
        error(&mut session, "shapes", &[("a", f(&[4, 2]).view()), ("a", f(&[4, 2]).view()), ("b", i(&[5, 3]).view())]),
        format!("input a: given twice\n{takes}")
    );
    let missing = session.entry("nope").err().unwrap().to_string();
    assert!(missing.starts_with("no entry `nope`; the artifact has quadruple, gather"), "{missing}");
}

#[test]
fn huge_shapes_are_errors() {
    let mut model = support::Model::new();
    model.manifest.symbols[0].max = kiln_runtime::format::UNBOUNDED;
    let n = support::sym(0);
    let x = support::port("x", ElemType::F32, &[n.clone(), support::fixed(0)]);
    let y = support::port("y", ElemType::F32, &[n.clone(), n]);
    model.entry("square", &[x], &[y], vec![vec![]]);
    let artifact = Artifact::from_bytes(&model.bytes()).unwrap();
    let mut session = Session::new(&artifact, threads(1)).unwrap();
    for n in [1usize << 40, usize::MAX / 4, 1 << 31, 1 << 24] {
        let shape = [n, 0];
        let empty = TensorView::of::<f32>(&shape, &[]).unwrap();
        let error = session.entry("square").unwrap().run(&[("x", empty)]).unwrap_err();
        assert!(matches!(error, Error::Size { .. } | Error::Memory { .. } | Error::Input { .. }), "{n}: {error:?}");
    }
}

#[test]
fn outputs_go_where_the_caller_says() {
    let mut session = session(threads(2));
    let (x, mut y) = ([1.0f32, 2.0, 3.0], [0.0f32; 3]);
    let mut entry = session.entry("quadruple").unwrap();
    let inputs = [("x", TensorView::of(&[3], &x).unwrap())];
    entry.run_into(&inputs, &mut [("y", TensorMut::of(&[3], &mut y).unwrap())]).unwrap();
    assert_eq!(y, [4.0, 8.0, 12.0]);
    assert_eq!(entry.output_shapes(&inputs).unwrap(), [[3]]);
    let error = entry.run_into(&inputs, &mut [("y", TensorMut::of(&[2], &mut y[..2]).unwrap())]).unwrap_err();
    assert!(error.to_string().starts_with("outputs y: f32[2], expected y: f32[3]"), "{error}");
    assert!(entry.run_into(&inputs, &mut []).is_err());
}

#[test]
fn tensors_check_their_bytes() {
    assert!(TensorView::of(&[2, 2], &[0f32; 3]).is_err());
    assert!(TensorView::of::<f32>(&[usize::MAX, 8], &[]).is_err());
    let bytes = [0u64; 2];
    let view = TensorView::of(&[2], &bytes).unwrap();
    let odd = TensorView::new(ElemType::F32, &[1], &view.bytes()[1..5]);
    assert!(odd.unwrap_err().to_string().contains("multiple of 4"));
}

#[test]
fn machines_without_a_target_are_told_what_there_is() {
    let mut model = zoo();
    model.manifest.targets[0].features = vec!["no-such-feature".into()];
    let artifact = Artifact::from_bytes(&model.bytes()).unwrap();
    let error = Session::new(&artifact, threads(1)).err().unwrap();
    assert!(
        error.to_string().starts_with("the artifact has code for cpu:x86-64-v2, this machine runs cpu:"),
        "{error}"
    );
    assert!(matches!(session_err(threads(0)), Error::Threads(_)));
    assert!(matches!(
        session_err(SessionOptions { target: Some("cpu:aarch64".into()), ..threads(1) }),
        Error::UnknownTarget { .. }
    ));
    let unknown = session_err(SessionOptions { target: Some("nonsense".into()), ..threads(1) });
    assert_eq!(unknown.to_string(), "no target `nonsense`; the artifact has cpu:x86-64-v2");
}

fn session_err(options: SessionOptions) -> Error {
    Session::new(&artifact(), options).err().unwrap()
}

#[test]
fn the_best_target_is_taken() {
    use kiln_runtime::format::Level;
    let mut model = zoo();
    for (name, level) in
        [("cpu:x86-64-v4", Level::X86_64V4), ("cpu:x86-64-v3", Level::X86_64V3), ("cpu:aarch64", Level::Aarch64)]
    {
        let mut target = model.manifest.targets[0].clone();
        (target.name, target.level) = (name.into(), level);
        model.manifest.targets.push(target);
    }
    let artifact = Artifact::from_bytes(&model.bytes()).unwrap();
    let best = &artifact.manifest().targets[artifact.best_target().unwrap()];
    assert_eq!(Some(best.level), kiln_runtime::machine::levels().last());
}

#[test]
fn bytes_may_be_borrowed_or_shared() {
    #[repr(align(64))]
    struct Aligned([u8; 65536]);
    let bytes = zoo().bytes();
    let leaked = Box::leak(Box::new(Aligned([0; 65536])));
    leaked.0[..bytes.len()].copy_from_slice(&bytes);
    let artifact = Artifact::from_static(&leaked.0[..bytes.len()]).unwrap();
    assert_eq!(run_f32(&mut Session::new(&artifact, threads(1)).unwrap(), "quadruple", &[1.0]), [4.0]);

    let leaked = Box::leak(Box::new(Aligned([0; 65536])));
    leaked.0[8..][..bytes.len()].copy_from_slice(&bytes);
    let odd: &'static [u8] = &leaked.0[8..][..bytes.len()];
    assert!(matches!(Artifact::from_static(odd), Err(Error::Misaligned { align: 64 })));
    assert!(matches!(Artifact::from_shared(Arc::new(odd)), Err(Error::Misaligned { .. })));
    assert!(Artifact::from_bytes(odd).is_ok());
}

#[test]
fn damaged_weights_give_no_result() {
    let mut bytes = zoo().bytes();
    bytes[4096 + 70] ^= 1;
    let full = OpenOptions { verify: Verify::Full, ..OpenOptions::default() }.from_bytes(&bytes);
    assert!(matches!(full, Err(Error::Corrupt { .. })));
    let path = std::env::temp_dir().join(format!("kiln-damaged-{}.kiln", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    for artifact in [Artifact::open(&path).unwrap(), Artifact::from_bytes(&bytes).unwrap()] {
        let mut session = Session::new(&artifact, threads(1)).unwrap();
        for _ in 0..2 {
            let x = [1.0f32];
            let error =
                session.entry("quadruple").unwrap().run(&[("x", TensorView::of(&[1], &x).unwrap())]).unwrap_err();
            assert!(error.to_string().contains("weights in bytes 4096.."), "{error}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    let trusting = OpenOptions { verify: Verify::MetadataOnly, ..OpenOptions::default() }.from_bytes(&bytes).unwrap();
    assert_eq!(run_f32(&mut Session::new(&trusting, threads(1)).unwrap(), "quadruple", &[1.0]), [4.0]);
}

#[test]
fn every_launch_is_heard_of() {
    #[derive(Default)]
    struct Log(Mutex<Vec<(String, String, usize)>>);
    impl Profile for Log {
        fn launch(&self, event: &LaunchEvent) {
            self.0.lock().unwrap().push((event.kernel.into(), event.label.into(), event.worker));
        }
    }
    for n in [1, 2] {
        let log = Arc::new(Log::default());
        let mut session = session(SessionOptions { profile: Some(log.clone()), ..threads(n) });
        run_f32(&mut session, "quadruple", &[1.0; 500]);
        let events = log.0.lock().unwrap();
        assert_eq!(events.iter().filter(|(_, _, worker)| *worker == 0).count(), 2, "{events:?}");
        assert!(events.iter().all(|(k, l, w)| k == "double" && l == "node_double" && *w < n));
    }
}
