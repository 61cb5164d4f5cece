//! A stream of coded rows, from any bytes.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_tests::stream(bytes));
