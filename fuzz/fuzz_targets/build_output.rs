//! Any line as the builder's output: a step has a stage that there is, and what is left of the line.
#![no_main]

use floors::build::{is_noise, step_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u32)| {
    let (line, stages) = input;
    let _ = is_noise(line);
    if let Some((stage, _, instruction)) = step_of(line, stages) {
        assert!((1..=stages).contains(&stage));
        assert!(line.ends_with(instruction));
    }
});
