//! States: what calls append and read, what they hold, what does not fit.

use super::{Both, Built, build, emulator, floats, int, sessions};
use kiln_ir::{ElemType, eval};
use kiln_runtime::Error;
use std::sync::LazyLock;

/// A step of decoding over a cache of keys and values, and states of each other kind.
const TEXT: &str = "module @decode stage=legal {
    dim P = 0..12
    dim Q = 0..4
    dim N = 1..8
    state @k : f32[1,2,P,8] grows=2 capacity=12 lifetime=session
    state @v : f32[1,2,P,8] grows=2 capacity=12 lifetime=session
    state @call : f32[Q] grows=0 capacity=4 lifetime=call
    state @still : f32[3] capacity=0 lifetime=session
    entry @step(%q: f32[1,2,N,8], %x: f32[1,2,N,8], %y: f32[1,2,N,8]) -> (z: f32[1,2,N,8], keys: f32[1,2,P + N,8]) {
      %0 = mul %x, 0.5 : f32[1,2,N,8]
      %1 = state.append %0 state=@k : f32[1,2,P + N,8]
      %2 = tanh %y : f32[1,2,N,8]
      %3 = state.append %2 state=@v : f32[1,2,P + N,8]
      %4 = attention %q, %1, %3 scale=0.35 causal=false layout=bhsd : f32[1,2,N,8]
      %5 = add %4, %0 : f32[1,2,N,8]
      return %5, %1
    }
    entry @look(%m: f32[P]) -> (k: f32[1,2,P,8], v: f32[P,8], s: f32[3]) {
      %6 = state.read state=@k : f32[1,2,P,8]
      %7 = state.read state=@v : f32[1,2,P,8]
      %8 = slice %7 axis=1 start=1 end=2 : f32[1,1,P,8]
      %9 = reshape %8 to=[P,8] : f32[P,8]
      %10 = state.read state=@still : f32[3]
      return %6, %9, %10
    }
    entry @keys_alone(%x: f32[1,2,N,8]) -> () {
      %11 = state.append %x state=@k : f32[1,2,P + N,8]
      return
    }
    entry @within(%x: f32[3], %c: i1[]) -> (y: f32[Q + 3], s: f32[3]) {
      %12 = if %c then() {
        %13 = state.read state=@still : f32[3]
        yield %13
      } else() { yield %x } : f32[3]
      %14 = state.append %12 state=@call : f32[Q + 3]
      return %14, %x
    }
    entry @empty(%x: f32[3]) -> (y: f32[1,2,P,8]) {
      %15 = state.read state=@k : f32[1,2,P,8]
      state.reset state=@k
      state.reset state=@v
      state.reset state=@still
      return %15
    }
  }";

fn built() -> &'static Built {
    static BUILT: LazyLock<Built> = LazyLock::new(|| build(TEXT));
    &BUILT
}

fn step(both: &mut Both<'_>, n: usize, first: usize) {
    let made = |add: usize| floats(&[1, 2, n, 8], first + add);
    both.check("step", &[("q", made(0)), ("x", made(5)), ("y", made(11))]);
}

fn look(both: &mut Both<'_>, held: usize) {
    both.check("look", &[("m", floats(&[held], 0))]);
    assert_eq!([both.session.held("k"), both.session.held("v")], [Some(held); 2]);
}

#[test]
fn what_calls_append_the_calls_after_them_see() {
    let built = built();
    for mut both in sessions(built) {
        look(&mut both, 0);
        for (turn, n) in [3, 1, 1, 1, 2].into_iter().enumerate() {
            step(&mut both, n, 3 * turn);
        }
        look(&mut both, 8);
        both.check("empty", &[("x", floats(&[3], 0))]);
        look(&mut both, 0);
        step(&mut both, 2, 50);
        look(&mut both, 2);
        // The session's own word does the same.
        both.session.reset();
        both.states.clear();
        step(&mut both, 4, 60);
        look(&mut both, 4);
        assert_eq!((both.session.held("still"), both.session.held("none")), (None, None));
    }
}

/// Where in the state a launch writes is part of its binding, also where no input or output has an address.
#[test]
fn an_entry_without_bytes_to_take_or_give_appends_behind_what_is_there() {
    let built = build(
        "module @m stage=legal {
          dim P = 0..10
          state @kv : f32[2,P] grows=1 capacity=10 lifetime=session
          entry @tick() -> (y: f32[2,0]) {
            %0 = broadcast 1.0 to=[2,1] : f32[2,1]
            %1 = state.append %0 state=@kv : f32[2,P + 1]
            %2 = slice %1 axis=1 start=0 end=0 : f32[2,0]
            return %2
          }
          entry @look() -> (y: f32[2,P]) {
            %3 = state.read state=@kv : f32[2,P]
            return %3
          }
        }",
    );
    for mut both in sessions(&built) {
        for _ in 0..5 {
            both.check("tick", &[]);
        }
        both.check("look", &[]);
    }
}

#[test]
fn a_state_of_a_call_is_empty_as_it_begins() {
    let built = built();
    for mut both in sessions(built) {
        for turn in 0..4 {
            let flag = int(ElemType::I1, turn & 1);
            let before = emulator::waits();
            both.check("within", &[("x", floats(&[3], turn as usize)), ("c", flag)]);
            assert_eq!(emulator::waits() - before, usize::from(both.is_gpu()));
        }
        assert_eq!(both.session.held("call"), Some(3));
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let built = built();
    for mut both in sessions(built) {
        step(&mut both, 8, 1);
        step(&mut both, 3, 2);
        let before = emulator::waits();
        let x = || floats(&[1, 2, 2, 8], 3);
        let error = both.run("step", &[("q", x()), ("x", x()), ("y", x())]).unwrap_err();
        assert_eq!(emulator::waits(), before);
        assert!(
            matches!(&error, Error::StateFull { state, capacity: 12, held: 11, asked: 2 } if state == "k"),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("state k is full: it holds 11 of 12, and 2 more are asked for"), "{text}");
        step(&mut both, 1, 4);
        look(&mut both, 12);
    }
}

#[test]
fn sizes_that_disagree_with_a_state_are_named() {
    let built = built();
    for mut both in sessions(built) {
        step(&mut both, 3, 1);
        let error = both.run("look", &[("m", floats(&[5], 0))]).unwrap_err().to_string();
        assert!(error.contains("input m: dimension 0, P, is 5, but 3 in state k"), "{error}");
        let x = || floats(&[1, 2, 1, 8], 3);
        both.run("keys_alone", &[("x", x())]).unwrap();
        let error = both.run("step", &[("q", x()), ("x", x()), ("y", x())]).unwrap_err().to_string();
        assert!(error.contains("state v: P is 3, but 4 in state k"), "{error}");
    }
}

/// A call that fails behind what it appends has appended nothing.
#[test]
fn a_call_that_fails_changes_no_state() {
    let built = &build(
        "module @m stage=legal {
          dim P = 0..8
          state @s : f32[P,2] grows=0 capacity=8 lifetime=session
          entry @f(%x: f32[1,2], %t: f32[3], %i: i64[1]) -> (y: f32[P + 1,2], z: f32[1]) {
            %0 = state.append %x state=@s : f32[P + 1,2]
            %1 = gather %t, %i axis=0 : f32[1]
            return %0, %1
          }
        }",
    );
    for mut both in sessions(built) {
        let index = |i: i64| eval::Tensor::ints(ElemType::I64, [1usize], vec![i]);
        both.check("f", &[("x", floats(&[1, 2], 1)), ("t", floats(&[3], 2)), ("i", index(2))]);
        let wrong = [("x", floats(&[1, 2], 7)), ("t", floats(&[3], 2)), ("i", index(3))];
        assert!(matches!(both.run("f", &wrong), Err(Error::IndexOutOfRange { .. })));
        assert_eq!(both.session.held("s"), Some(1));
        both.check("f", &[("x", floats(&[1, 2], 9)), ("t", floats(&[3], 2)), ("i", index(0))]);
        assert_eq!(both.session.held("s"), Some(2));
    }
}
