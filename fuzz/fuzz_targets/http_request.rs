#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| termgate_fuzz::bodies::http_request::run(data));
