//! What a program says that it needs: its interpreter, and the libraries that are loaded before it begins (the
//! System V ABI's program header and dynamic section; `#!` as in execve(2)).

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRTAB, PT_INTERP, PT_LOAD};
use elf::endian::AnyEndian;

/// The most libraries of one program.
const MAX_LIBRARIES: usize = 256;
/// The longest first line of a script that the kernel looks at.
const MAX_LINE: usize = 256;

/// What is needed to begin with a program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Paths, and names that are looked up in PATH.
    pub programs: Vec<Vec<u8>>,
    /// Names of shared libraries.
    pub libraries: Vec<Vec<u8>>,
    /// Directories in which these are looked for first; `$ORIGIN` is the program's own.
    pub directories: Vec<Vec<u8>>,
}

impl Needs {
    /// Of the program with these bytes. What is no program needs nothing.
    pub fn of(program: &[u8]) -> Self {
        match program.strip_prefix(b"#!") {
            Some(script) => Self::of_script(script),
            None => Self::of_elf(program).unwrap_or_default(),
        }
    }

    fn of_script(script: &[u8]) -> Self {
        let line = script[..script.len().min(MAX_LINE)].split(|byte| *byte == b'\n').next();
        let words = line.unwrap_or_default().split(u8::is_ascii_whitespace);
        let mut words = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        let mut programs: Vec<_> = words.next().into_iter().collect();
        if programs.first().is_some_and(|program| program.ends_with(b"/env")) {
            // What looks programs up by their names.
            programs.extend(words.find(|word| !word.starts_with(b"-") && !word.contains(&b'=')));
        }
        Self { programs, ..Self::default() }
    }

    fn of_elf(program: &[u8]) -> Option<Self> {
        let elf = ElfBytes::<AnyEndian>::minimal_parse(program).ok()?;
        let segments = elf.segments()?;
        let mut needs = Self::default();
        let interpreter = segments.iter().find(|segment| segment.p_type == PT_INTERP);
        if let Some(interpreter) = interpreter.and_then(|segment| elf.segment_data(&segment).ok()) {
            needs.programs.push(text(interpreter)?.to_vec());
        }
        let Some(dynamic) = elf.dynamic().ok().flatten() else { return Some(needs) };
        let strings = dynamic.iter().find(|entry| entry.d_tag == DT_STRTAB)?.d_ptr();
        // Where it is in memory; the segment that is loaded there says where it is in the file.
        let holding = segments.iter().find(|segment| {
            let loaded = segment.p_vaddr..segment.p_vaddr.saturating_add(segment.p_filesz);
            segment.p_type == PT_LOAD && loaded.contains(&strings)
        })?;
        let start = usize::try_from(strings - holding.p_vaddr).ok()?;
        let strings = elf.segment_data(&holding).ok()?.get(start..)?;
        let string = |at: u64| text(strings.get(usize::try_from(at).ok()?..)?);
        for entry in dynamic.iter() {
            match entry.d_tag {
                DT_NEEDED if needs.libraries.len() < MAX_LIBRARIES => {
                    needs.libraries.push(string(entry.d_val())?.to_vec());
                }
                DT_RPATH | DT_RUNPATH => {
                    let directories = string(entry.d_val())?.split(|byte| *byte == b':');
                    needs.directories.extend(directories.take(64).map(<[u8]>::to_vec));
                }
                _ => {}
            }
        }
        Some(needs)
    }
}

/// The bytes up to a zero, if they could be a name.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    (1..=4096).contains(&text.len()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_program_names_its_interpreter_and_its_libraries() {
        let needs = Needs::of(&std::fs::read("/proc/self/exe").unwrap());
        let name = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        assert!(name(&needs.programs[0]).contains("/ld-"), "{needs:?}");
        assert!(needs.libraries.iter().any(|library| name(library) == "libc.so.6"), "{needs:?}");
    }

    #[test]
    fn a_script_names_its_interpreter() {
        let programs = |script: &str| {
            let programs = Needs::of(script.as_bytes()).programs;
            programs.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(programs("#!/bin/sh\necho"), ["/bin/sh"]);
        assert_eq!(programs("#! /bin/sh -e\n"), ["/bin/sh"]);
        assert_eq!(programs("#!/usr/bin/env -S A=1 python3 -u\n"), ["/usr/bin/env", "python3"]);
        assert_eq!(programs("#!"), [""; 0]);
        assert_eq!(programs("hello"), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_harmed_program_harms_nobody(changes in prop::collection::vec((0..4096_usize, any::<u8>()), 1..40)) {
            let mut program = std::fs::read("/bin/true").unwrap();
            for (at, byte) in changes {
                let at = at % program.len();
                program[at] = byte;
            }
            Needs::of(&program);
            Needs::of(&program[..program.len() / 2]);
        }

        #[test]
        fn any_bytes_are_a_program_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Needs::of(&bytes);
            Needs::of(&[b"\x7fELF\x02\x01\x01", &bytes[..]].concat());
        }
    }
}
