//! A layer in which nothing is younger than a moment: what a build has touched has the time of the build, so
//! that without this no two builds make the same layer. It is what `SOURCE_DATE_EPOCH` asks for
//! (reproducible-builds.org, "SOURCE_DATE_EPOCH"): later times become that one, earlier ones stay.
//!
//! The tar is changed on its way, header by header. A PAX record with a later time goes, since the header's
//! own field says the same then. What is no tar goes by as it is, for whoever reads it to judge.

use std::io::{self, Read};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::ExportError;
use crate::digest::Digest;

/// The latest moment that may be asked for, in seconds since 1970: later ones don't fit into eleven octal digits.
pub const MAX_EPOCH: u64 = 0o777_7777_7777;

const BLOCK: usize = 512;
/// The longest PAX header that is changed; readers take none as long.
const MAX_PAX: u64 = 8 << 20;
/// Fields of a header: where they begin and end (POSIX pax, "ustar Interchange Format").
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..265;
/// GNU's times of access and change.
const GNU_TIMES: [std::ops::Range<usize>; 2] = [345..357, 357..369];
const GNU: &[u8] = b"ustar  \0";
/// Whether more of a sparse file's map follows, in the header and in what follows.
const SPARSE_MORE: [usize; 2] = [482, 504];

/// Reads the changed tar.
pub(super) struct Dated<R> {
    tar: R,
    epoch: u64,
    /// Of what was read.
    hasher: Sha256,
    /// What was changed and not handed on yet.
    ready: Vec<u8>,
    at: usize,
    /// Bytes that follow and stay as they are.
    body: u64,
    /// From a PAX record: the length of the next entry.
    next_size: Option<u64>,
    /// The rest stays as it is.
    over: bool,
}

impl<R: Read> Dated<R> {
    /// `epoch` in seconds since 1970.
    pub(super) fn new(tar: R, epoch: u64) -> Self {
        Self {
            tar,
            epoch,
            hasher: Sha256::new(),
            ready: Vec::new(),
            at: 0,
            body: 0,
            next_size: None,
            over: false,
        }
    }

    /// The digest of the tar as it was, once it was read to its end.
    pub(super) fn original(self) -> Digest {
        Digest::from_hasher(self.hasher)
    }

    /// Reads `length` bytes, or as many as there are.
    fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.tar).take(length).read_to_end(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// Makes the next header ready; there is none at the end.
    fn header(&mut self) -> io::Result<()> {
        let mut header = self.take(BLOCK as u64)?;
        self.at = 0;
        if header.len() < BLOCK || header.iter().all(|byte| *byte == 0) {
            self.over = true;
            self.ready = header;
            return Ok(());
        }
        let own = number(&header[SIZE]);
        if header[TYPE] == b'x'
            && let Some(length) = own.filter(|length| *length <= MAX_PAX)
        {
            return self.pax(header, length);
        }
        let kind = header[TYPE];
        // Links, devices, directories and fifos have no content, whatever they say.
        let has_body = !matches!(kind, b'1'..=b'6');
        let length = self.next_size.take().or(own).filter(|_| has_body).unwrap_or(0);
        self.body = length.next_multiple_of(BLOCK as u64);
        self.clamp(&mut header, false);
        let mut more = kind == b'S' && header[SPARSE_MORE[0]] == 1;
        while more {
            let map = self.take(BLOCK as u64)?;
            more = map.get(SPARSE_MORE[1]) == Some(&1);
            header.extend_from_slice(&map);
        }
        self.ready = header;
        Ok(())
    }

    /// Takes later times out of a PAX header; one that says nothing else goes as a whole.
    fn pax(&mut self, mut header: Vec<u8>, length: u64) -> io::Result<()> {
        let padded = self.take(length.next_multiple_of(BLOCK as u64))?;
        let body = padded.get(..usize::try_from(length).unwrap_or(usize::MAX));
        let Some(records) = body.and_then(records) else {
            header.extend_from_slice(&padded);
            self.ready = header;
            return Ok(());
        };
        let mut kept = Vec::new();
        for Record { whole, key, value } in &records {
            let is_time = matches!(*key, b"mtime" | b"atime" | b"ctime");
            if *key == b"size" {
                self.next_size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            }
            if !(is_time && self.is_later(value)) {
                kept.extend_from_slice(whole);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        octal(&mut header[SIZE], kept.len() as u64);
        self.clamp(&mut header, true);
        kept.resize(kept.len().next_multiple_of(BLOCK), 0);
        header.append(&mut kept);
        self.ready = header;
        Ok(())
    }

    /// Whether a PAX time is later than the epoch, or in its second.
    fn is_later(&self, value: &[u8]) -> bool {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: Option<i128> = seconds.parse().ok();
        seconds.is_some_and(|seconds| {
            let epoch = i128::from(self.epoch);
            seconds > epoch || seconds == epoch && fraction.bytes().any(|digit| digit != b'0')
        })
    }

    /// Sets later times of a header and, if anything was changed, its checksum.
    fn clamp(&self, header: &mut [u8], mut is_changed: bool) {
        let fields = std::iter::once(MTIME).chain(GNU_TIMES);
        let fields = fields.take(if header[MAGIC] == *GNU { 3 } else { 1 });
        for field in fields {
            if number(&header[field.clone()]).is_some_and(|time| time > self.epoch) {
                octal(&mut header[field], self.epoch);
                is_changed = true;
            }
        }
        if !is_changed {
            return;
        }
        header[CHECKSUM].fill(b' ');
        let sum: u64 = header[..BLOCK].iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, NUL and a space: as everybody writes it.
        let text = format!("{sum:06o}\0 ");
        header[CHECKSUM].copy_from_slice(text.as_bytes());
    }
}

impl<R: Read> Read for Dated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.at < self.ready.len() {
                let read = (&self.ready[self.at..]).read(buffer)?;
                self.at += read;
                return Ok(read);
            }
            if self.body > 0 || self.over {
                let room = if self.over { u64::MAX } else { self.body };
                let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
                let read = self.tar.read(&mut buffer[..room])?;
                self.hasher.update(&buffer[..read]);
                self.body = self.body.saturating_sub(read as u64);
                self.over |= read == 0;
                return Ok(read);
            }
            self.ready.clear();
            self.header()?;
            if self.ready.is_empty() && self.over {
                return Ok(0);
            }
        }
    }
}

/// An image's config with these diff ids, in which no time is later. What can't be read is wrong.
pub(super) fn dated_config(
    config: &Bytes,
    diff_ids: &[Digest],
    epoch: u64,
) -> Result<Bytes, ExportError> {
    let wrong = |reason: String| ExportError::Storage { path: "config".into(), reason };
    let mut value: Value = serde_json::from_slice(config).map_err(|e| wrong(e.to_string()))?;
    let latest = i64::try_from(epoch).ok().and_then(|epoch| DateTime::from_timestamp(epoch, 0));
    let latest = latest.ok_or_else(|| wrong(format!("{epoch} seconds are no time")))?;
    let clamp = |time: &mut Value| {
        let found = time.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        if found.is_some_and(|found| found > latest) {
            *time = json!(latest.to_rfc3339_opts(SecondsFormat::Secs, true));
        }
    };
    value.get_mut("created").map(clamp);
    let history = value.get_mut("history").and_then(Value::as_array_mut);
    history.into_iter().flatten().filter_map(|entry| entry.get_mut("created")).for_each(clamp);
    value["rootfs"]["diff_ids"] = json!(diff_ids);
    Ok(value.to_string().into())
}

/// A record of a PAX header: `LENGTH KEY=VALUE\n`.
struct Record<'a> {
    whole: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let whole = bytes.get(..length)?;
        let text = whole.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = text.iter().position(|byte| *byte == b'=')?;
        records.push(Record { whole, key: &text[..equals], value: &text[equals + 1..] });
        bytes = &bytes[length..];
    }
    Some(records)
}

/// A header's number: octal digits, or binary if its highest bit is set. Negative ones are none.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let (high, low) = field.split_at(field.len() - 8);
        let fits = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        return (!negative && fits)
            .then(|| low.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Writes a number that eleven octal digits hold; every time does until the year 2242.
fn octal(field: &mut [u8], number: u64) {
    let text = format!("{number:011o}\0");
    if text.len() == field.len() {
        field.copy_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "times here are small")]

    use proptest::prelude::*;
    use tar::{Archive, Builder, EntryType, Header};

    use super::*;

    const EPOCH: u64 = 1_700_000_000;

    /// A tar of files with these times, of which some have fractions in PAX records, in all formats.
    fn tar(times: &[(u64, u32)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (number, (seconds, nanos)) in times.iter().enumerate() {
            let mut header = if number % 3 == 0 { Header::new_ustar() } else { Header::new_gnu() };
            header.set_mtime(*seconds);
            header.set_size(number as u64 * 300);
            header.set_mode(0o644);
            if let Some(gnu) = header.as_gnu_mut() {
                gnu.set_atime(*seconds);
                gnu.set_ctime(*seconds);
            }
            if *nanos > 0 {
                let time = format!("{seconds}.{nanos:09}");
                let comment = ("comment", b"x".as_slice());
                let times = [("mtime", time.as_bytes()), ("ctime", time.as_bytes())];
                let other = (number % 2 == 0).then_some(comment);
                tar.append_pax_extensions(times.into_iter().chain(other)).unwrap();
            }
            let name = format!("{}{number}", "d/".repeat(number % 70));
            let content = vec![b'x'; number * 300];
            header.set_path(&name[name.len().saturating_sub(90)..]).unwrap();
            header.set_cksum();
            tar.append(&header, &content[..]).unwrap();
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        header.set_mtime(times.first().map_or(0, |time| time.0));
        tar.append_data(&mut header, "directory/", io::empty()).unwrap();
        tar.into_inner().unwrap()
    }

    fn dated(tar: &[u8]) -> Vec<u8> {
        let (mut dated, mut bytes) = (Dated::new(tar, EPOCH), Vec::new());
        dated.read_to_end(&mut bytes).unwrap();
        assert_eq!(dated.original(), Digest::of(tar));
        bytes
    }

    /// Paths, times and contents; times by the PAX records where there are any.
    fn entries(tar: &[u8]) -> Vec<(Vec<u8>, f64, Vec<u8>)> {
        let mut archive = Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut time = entry.header().mtime().unwrap() as f64;
            for record in entry.pax_extensions().unwrap().into_iter().flatten() {
                let record = record.unwrap();
                if record.key() == Ok("mtime") {
                    time = record.value().unwrap().parse().unwrap();
                }
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path_bytes().into_owned(), time, content)
        });
        entries.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn nothing_is_later_and_the_rest_is_the_same(
            times in prop::collection::vec((EPOCH - 5..EPOCH + 5, prop::sample::select(vec![0u32, 7])), 1..20),
        ) {
            let (before, after) = (tar(&times), dated(&tar(&times)));
            let (before, after) = (entries(&before), entries(&after));
            prop_assert_eq!(before.len(), after.len());
            for (was, is) in before.iter().zip(&after) {
                prop_assert_eq!((&was.0, &was.2), (&is.0, &is.2));
                prop_assert_eq!(is.1, was.1.min(EPOCH as f64));
            }
            prop_assert_eq!(dated(&dated(&tar(&times))), dated(&tar(&times)));
            // Two builds at different times make the same layer.
            let later: Vec<_> = times.iter().map(|(seconds, _)| (seconds + 100, 0)).collect();
            // Where nothing else is in a PAX header, it goes as a whole.
            let odd = |at: usize, nanos: u32| if at % 2 == 1 { nanos } else { 0 };
            let later_still = times.iter().enumerate();
            let later_still: Vec<_> =
                later_still.map(|(at, (seconds, nanos))| (seconds + 200, odd(at, *nanos))).collect();
            prop_assert_eq!(dated(&tar(&later)), dated(&tar(&later_still)));
        }

        #[test]
        fn what_is_no_tar_goes_by(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut read = Vec::new();
            Dated::new(&bytes[..], EPOCH).read_to_end(&mut read).unwrap();
            prop_assert!(read.len() <= bytes.len() + BLOCK);
        }
    }

    #[test]
    fn a_fraction_leaves_no_trace() {
        // Builds at whole seconds and between them differ in nothing.
        let (whole, between) = (tar(&[(EPOCH + 3, 0), (EPOCH + 9, 0)]), tar(&[(EPOCH + 3, 5)]));
        assert_ne!(whole, between);
        let first = |tar: &[u8]| entries(tar)[0].clone();
        assert_eq!(first(&dated(&whole)).1, first(&dated(&between)).1);
        let odd = [tar(&[(0, 0)]), tar(&[(0, 0), (EPOCH + 3, 5)])];
        assert!(odd[1].len() > odd[0].len());
        assert_eq!(dated(&tar(&[(1, 0), (EPOCH + 3, 5)])), dated(&tar(&[(1, 0), (EPOCH + 9, 0)])));
    }
}
