//! Feeds any bytes to `src/fuzzing`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| adit::fuzzing::run("issued", bytes));
