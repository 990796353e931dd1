#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| valuecanvas_billing_fuzz::signature(data));
