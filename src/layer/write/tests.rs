//! What was written is what reading it says.

use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

use super::*;
use crate::layer::{LayerRead, read_layer};

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0] & 0x3f
    };
    (0..length).map(|_| next()).collect()
}

/// A tar of files of these sizes, links and directories.
fn tar(sizes: &[usize]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    tar.append_data(&mut header, "d/", io::empty()).unwrap();
    for (number, size) in sizes.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(*size as u64);
        let name = format!("d/{}{number}", "long".repeat(number % 40));
        tar.append_data(&mut header, &name, &noise(number as u64, *size)[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Link);
        tar.append_link(&mut header, format!("link{number}"), &name).unwrap();
    }
    tar.into_inner().unwrap()
}

fn settings(plain: &[u8]) -> LayerWrite {
    LayerWrite {
        diff_id: Digest::of(plain),
        is_changed: false,
        limits: Limits::default(),
        span: Some(1 << 20),
        level: 3,
        threads: 3,
    }
}

fn write(settings: LayerWrite, plain: &[u8]) -> Result<(LayerIndex, Vec<u8>), LayerError> {
    let (mut out, mut source) = (Vec::new(), plain);
    let index = write_layer(settings, &MemoryAccount::default(), &mut source, &mut out)?;
    Ok((index, out))
}

/// The index that reading gives.
fn read(layer: &[u8], settings: LayerWrite) -> LayerIndex {
    let LayerWrite { limits, span, .. } = settings;
    let read = LayerRead { digest: Digest::of(layer), limits, span };
    read_layer(read, &MemoryAccount::default(), layer, &mut NoContents).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_index_is_the_one_that_reading_gives(
        sizes in prop::collection::vec(0usize..700_000, 0..12),
        span in prop::option::of(1u64..4),
        level in 1u32..7,
        threads in 1usize..5,
    ) {
        let plain = tar(&sizes);
        let span = span.map(|mib| mib << 19);
        let settings = LayerWrite { span, level, threads, ..settings(&plain) };
        let (index, layer) = write(settings, &plain).unwrap();
        prop_assert_eq!(&index, &read(&layer, settings));
        let mut back = Vec::new();
        MultiGzDecoder::new(&layer[..]).read_to_end(&mut back).unwrap();
        prop_assert!(back == plain);
        // However many threads there were.
        let (_, alone) = write(LayerWrite { threads: 1, ..settings }, &plain).unwrap();
        prop_assert!(alone == layer);
    }
}

#[test]
fn what_is_not_the_layer_is_refused() {
    let plain = tar(&[3_000_000, 5]);
    let lie = LayerWrite { diff_id: Digest::of(b"other"), ..settings(&plain) };
    let error = write(lie, &plain).unwrap_err();
    assert!(matches!(error, LayerError::DiffId { .. }), "{error}");
    assert!(write(LayerWrite { is_changed: true, ..lie }, &plain).is_ok());
    let broken = noise(7, 3 << 20);
    let error = write(settings(&broken), &broken).unwrap_err();
    assert!(matches!(error, LayerError::Tar { .. }), "{error}");
    let limits = Limits { plain_bytes: 1 << 20, ..Limits::default() };
    let error = write(LayerWrite { limits, ..settings(&plain) }, &plain).unwrap_err();
    assert!(matches!(error, LayerError::Limit { .. }), "{error}");
    let limits = Limits { ratio: 2, ratio_from: 1, ..Limits::default() };
    let zeros = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4 << 20);
        tar.append_data(&mut header, "zeros", io::repeat(0).take(4 << 20)).unwrap();
        tar.into_inner().unwrap()
    };
    let error = write(LayerWrite { limits, ..settings(&zeros) }, &zeros).unwrap_err();
    assert!(matches!(error, LayerError::Limit { .. }), "{error}");
}

/// Fails after so many bytes, as a reader and as a writer.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let give = bytes.len().min(self.0);
        bytes[..give].fill(0);
        self.0 -= give;
        if give == 0 { Err(io::Error::other("the disk is gone")) } else { Ok(give) }
    }
}

impl Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::Error::other("nobody listens"));
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_breaks_ends_it() {
    let plain = tar(&[9_000_000]);
    let account = MemoryAccount::default();
    for after in [0, 1_500_000] {
        let error = write_layer(settings(&plain), &account, &mut Broken(after), &mut Vec::new());
        let error = error.unwrap_err();
        assert!(error.to_string().contains("the disk is gone"), "{error}");
        let error = write_layer(settings(&plain), &account, &mut &plain[..], &mut Broken(after));
        let error = error.unwrap_err();
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }
}
