#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| termgate_fuzz::bodies::core_schedule::run(data));
