//! Any bytes as traces: what was read, written again, reads back the same, and so does what two of
//! them make together.
#![no_main]

use floors::trace::Trace;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&[u8], &[u8])| {
    let Ok(mut trace) = Trace::parse(texts.0) else { return };
    assert_eq!(Trace::parse(trace.to_json().as_bytes()).as_ref(), Ok(&trace));
    if let Ok(other) = Trace::parse(texts.1) {
        trace.merge(&other);
        assert!(trace.order().len() <= trace.len());
        assert_eq!(Trace::parse(trace.to_json().as_bytes()).as_ref(), Ok(&trace));
    }
});
