#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| termgate_fuzz::bodies::registry_command::run(data));
