//! What a session does beyond launching kernels: control flow, states and tensors on the device, on processors and on an
//! emulated GPU.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

mod emulator;
#[path = "conformance/harness.rs"]
mod harness;
mod ptx;
#[path = "session/mod.rs"]
mod session;
