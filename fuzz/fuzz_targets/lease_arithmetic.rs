#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| termgate_fuzz::bodies::lease_arithmetic::run(data));
