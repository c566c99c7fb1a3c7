//! Any text as a Dockerfile, with any value of an argument: it is read, or refused with one of its lines.
#![no_main]

use std::collections::BTreeMap;

use floors::build::dockerfile::{Dockerfile, Features, Scope};
use floors::oci::Platform;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, bool, &str, &str)| {
    let (text, heredocs, name, value) = input;
    let lines = text.lines().count().max(1);
    let dockerfile = match Dockerfile::parse(text, Features { heredocs }) {
        Ok(dockerfile) => dockerfile,
        Err(error) => return assert!((1..=lines).contains(&error.line), "{error}"),
    };
    let platform = Platform::host();
    let arguments = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let scope = Scope { arguments: &arguments, target: None, platform: &platform };
    match dockerfile.externals(&scope) {
        Ok(images) => assert!(images.iter().all(|image| (1..=lines).contains(&image.line))),
        Err(error) => assert!((1..=lines).contains(&error.line), "{error}"),
    }
});
