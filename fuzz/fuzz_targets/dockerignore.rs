//! Any text as `.dockerignore`, and any path: it is decided in time, and what is taken back below a directory
//! that is left out is found there.
#![no_main]

use floors::build::context::ignore::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let Ok(ignore) = Ignore::parse(text) else { return };
    let is_clean = |part: &str| !matches!(part, "" | "." | "..");
    if !path.split('/').all(is_clean) {
        return;
    }
    let is_out = ignore.leaves_out(path);
    if let Some((directory, _)) = path.rsplit_once('/')
        && ignore.leaves_out(directory)
        && !is_out
    {
        assert!(ignore.takes_back_below(directory), "{text:?} {path:?}");
    }
});
