//! Any bytes as what package managers have written down: every package has a name and a version that can be
//! ones, and an address.
#![no_main]

use floors::packages::{Manager, Record, package_url, system_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let managers = [Manager::Apk, Manager::Dpkg, Manager::Npm, Manager::Pip];
    let manager = managers[usize::from(input.0) % managers.len()];
    let record = Record { manager, most: 0, is_prefix_enough: false };
    let system = system_of(input.1);
    for package in record.packages(input.1) {
        let plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        assert!(plain(&package.name) && plain(&package.version));
        let url = package_url(&package, system.as_deref());
        assert!(url.starts_with("pkg:") && url.is_ascii() && plain(&url));
    }
    let _ = Record::at(input.1);
});
