//! libFuzzer's entry for [`brooklet_fuzz_targets::rwkv_cpp`]; nothing else is here.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brooklet_fuzz_targets::rwkv_cpp(bytes));
