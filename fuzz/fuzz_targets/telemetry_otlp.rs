#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ondol_telemetry::fuzz::otlp_metrics(data));
