//! Any bytes as programs: what they need is bounded, whatever they say.
#![no_main]

use floors::program::Needs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|program: &[u8]| {
    let needs = Needs::of(program);
    assert!(needs.libraries.len() <= 256);
    let names = needs.programs.iter().chain(&needs.libraries);
    assert!(names.map(Vec::len).all(|length| (1..=4096).contains(&length)));
});
