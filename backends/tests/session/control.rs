//! Branches and loops that are steps of the plan: what they compute, and how often the host waits for the device.

use super::{Built, build, emulator, floats, int, sessions};
use crate::ptx;
use kiln_ir::ElemType;
use kiln_kernels::cuda::Sm;
use kiln_runtime::Error;
use std::sync::LazyLock;

// Two products of usual size are worth launches of their own.
const TEXT: &str = "module @m stage=legal {
    dim S = 1..1000
    entry @branch(%x: f32[S], %c: i1[], %d: i1[]) -> (y: f32[S]) {
      %0 = if %c then() {
        %1 = if %d then() { %2 = add %x, %x : f32[S] yield %2 } else() { %3 = neg %x : f32[S] yield %3 } : f32[S]
        %4 = mul %1, %x : f32[S]
        yield %4
      } else() { %5 = tanh %x : f32[S] yield %5 } : f32[S]
      %6 = add %0, 1.0 : f32[S]
      return %6
    }
    entry @counted(%x: f32[S,S]) -> (y: f32[S,S], n: i64[]) {
      %0, %1 = for 5, %x, 0 body(%i: i64[], %c: f32[S,S], %n: i64[]) {
        %2 = matmul %c, %x : f32[S,S]
        %3 = matmul %2, %x : f32[S,S]
        %4 = tanh %3 : f32[S,S]
        %5 = mul %n, 3 : i64[]
        %6 = add %5, %i : i64[]
        yield %4, %6
      } : f32[S,S], i64[]
      return %0, %1
    }
    entry @until(%x: f32[S,S], %k: i64[]) -> (y: f32[S,S]) {
      %0, %1 = while %x, %k max=30 condition(%c: f32[S,S], %n: i64[]) {
        %2 = compare %n, 0 dir=gt : i1[]
        yield %2
      } body(%c: f32[S,S], %n: i64[]) {
        %3 = matmul %c, %x : f32[S,S]
        %4 = matmul %3, %x : f32[S,S]
        %5 = tanh %4 : f32[S,S]
        %6 = sub %n, 1 : i64[]
        yield %5, %6
      } : f32[S,S], i64[]
      return %0
    }
  }";

fn built() -> &'static Built {
    static BUILT: LazyLock<Built> = LazyLock::new(|| build(TEXT));
    &BUILT
}

/// Waits of one run of a session.
fn waits(run: impl FnOnce()) -> usize {
    let before = emulator::waits();
    run();
    emulator::waits() - before
}

#[test]
fn what_a_flag_decides_is_launched_before_it_is_known() {
    let built = built();
    for mut both in sessions(built) {
        let x = floats(&[5], 3);
        // The second and later runs on a GPU are graphs, which hold for any flags.
        for turn in 0..8 {
            let flag = |bit: i64| int(ElemType::I1, turn >> bit & 1);
            let waits = waits(|| both.check("branch", &[("x", x.clone()), ("c", flag(0)), ("d", flag(1))]));
            assert_eq!(waits, usize::from(both.is_gpu()), "{}", both.target());
        }
    }
}

#[test]
fn a_loop_of_a_known_count_waits_for_nothing() {
    let built = built();
    let before = emulator::graphs();
    for mut both in sessions(built) {
        for turn in 0..3 {
            let waits = waits(|| both.check("counted", &[("x", floats(&[3, 3], turn))]));
            assert_eq!(waits, usize::from(both.is_gpu()), "{}", both.target());
        }
    }
    assert!(emulator::graphs() >= before + 2);
}

#[test]
fn a_loop_is_asked_for_now_and_then() {
    let built = built();
    for mut both in sessions(built) {
        // Asked before runs 1, 3, 7, 15, 23 and 30, the last that may be, and the end is waited for.
        for (steps, asked) in [(0, 1), (1, 1), (2, 2), (7, 3), (20, 5), (30, 6)] {
            let waits = waits(|| both.check("until", &[("x", floats(&[3, 3], 1)), ("k", int(ElemType::I64, steps))]));
            assert_eq!(waits, if both.is_gpu() { asked + 1 } else { 0 }, "{} {steps}", both.target());
        }
        let error = both.run("until", &[("x", floats(&[3, 3], 1)), ("k", int(ElemType::I64, 31))]).unwrap_err();
        assert!(matches!(error, Error::LoopLimit { max: 30, .. }), "{error}");
        both.check("until", &[("x", floats(&[3, 3], 1)), ("k", int(ElemType::I64, 2))]);
    }
}

/// The session's own code is assembled too.
#[test]
fn the_code_for_control_flow_assembles() {
    let Some(ptxas) = ptx::ptxas() else { return };
    let text = include_bytes!("../../../runtime/src/cuda/control.ptx");
    assert_eq!(ptx::assemble(ptxas, Sm::Sm80, text).len(), 2);
}
