#![no_main]

libfuzzer_sys::fuzz_target!(init: termgate_fuzz::let_panics_be_caught(), |data: &[u8]| termgate_fuzz::bodies::storage_open::run(data));
