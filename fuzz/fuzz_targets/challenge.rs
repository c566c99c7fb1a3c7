//! Any text as a `WWW-Authenticate` header: what was read of it, written by the book, reads back the
//! same.
#![no_main]

use floors::challenges;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| {
    let read = challenges(header);
    let written: Vec<String> = read
        .iter()
        .map(|(scheme, parameters)| {
            let parameters = parameters.iter().map(|(name, value)| {
                let value = value.replace('\\', r"\\").replace('"', r#"\""#);
                format!(r#"{name}="{value}""#)
            });
            format!("{scheme} {}", parameters.collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(challenges(&written.join(", ")), read);
});
