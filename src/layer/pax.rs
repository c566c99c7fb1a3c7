//! PAX extended headers (POSIX.1-2001 pax, "pax Extended Header"): `<length> <key>=<value>\n`.
//!
//! Records are found by their length, so that values may hold any byte, newlines included: file
//! capabilities do.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::entry::{Time, integer, low_bits};
use super::sparse::PaxSparse;

/// The records of one extended header that mean something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    /// As [`Meta`](super::Meta) has them.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) ctime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

/// Keys that come by turns, once for each stretch of a sparse file (0.0).
const PAIR: [&[u8]; 2] = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"];

impl Pax {
    /// Reads the values of records that [`check`] has seen.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let records = records(bytes)?;
        // Of several records with one key the last counts, and the others need not make sense.
        let last: HashMap<&[u8], usize> =
            records.iter().enumerate().map(|(at, (key, _))| (*key, at)).collect();
        let mut pax = Self::default();
        let mut map = Vec::new();
        for (at, (key, value)) in records.into_iter().enumerate() {
            if PAIR.contains(&key) {
                map.push(value);
            } else if last[key] == at {
                pax.take(key, value)?;
            }
        }
        if !map.is_empty() {
            pax.sparse.map = map.join(&b','); // as 0.1 has it
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"path" => self.path = set(value),
            b"linkpath" => self.link_path = set(value),
            b"size" => self.size = number(key, value)?,
            b"uid" => self.uid = number(key, value)?.map(low_bits),
            b"gid" => self.gid = number(key, value)?.map(low_bits),
            b"mtime" => self.mtime = time(key, value)?,
            b"atime" => self.atime = time(key, value)?,
            b"ctime" => self.ctime = time(key, value)?,
            b"GNU.sparse.major" => self.sparse.major = value.to_vec(),
            b"GNU.sparse.minor" => self.sparse.minor = value.to_vec(),
            b"GNU.sparse.name" => self.sparse.name = value.to_vec(),
            b"GNU.sparse.size" => self.sparse.size = value.to_vec(),
            b"GNU.sparse.realsize" => self.sparse.real_size = value.to_vec(),
            b"GNU.sparse.numblocks" => self.sparse.pieces = value.to_vec(),
            b"GNU.sparse.map" => self.sparse.map = value.to_vec(),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && let Some(value) = set(value)
                {
                    if name.is_empty() {
                        return Err("PAX record of an extended attribute without a name".into());
                    }
                    self.xattrs.insert(name.to_vec(), value);
                }
                // Other keys (comment, uname, hdrcharset, ...) say nothing that an index holds.
            }
        }
        Ok(())
    }
}

/// Whether these are records at all; their values are looked at when an entry needs them.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    records(bytes).map(drop)
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut records = Vec::new();
    let mut pairs = PAIR.iter().cycle();
    while !rest.is_empty() {
        let (record, after) = split_record(rest)?;
        let equals =
            record.iter().position(|b| *b == b'=').ok_or("PAX record without an equals sign")?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let text = match key {
            b"path" | b"linkpath" | b"uname" | b"gname" => value,
            _ => key,
        };
        if key.is_empty() || text.contains(&0) {
            return Err("PAX record with a NUL in its key or name, or without a key".into());
        }
        if PAIR.contains(&key) && (pairs.next() != Some(&key) || value.contains(&b',')) {
            return Err("PAX records of a sparse file are out of order".into());
        }
        records.push((key, value));
        rest = after;
    }
    Ok(records)
}

/// Splits `<length> <record>\n` off; the length counts itself and the newline.
fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let bad = || "malformed PAX record length".to_owned();
    let space = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
    let length = integer(&bytes[..space]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length >= 5).ok_or_else(bad)?; // Go's least
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(bad());
    }
    Ok((&bytes[space + 1..length - 1], &bytes[length..]))
}

/// An empty value takes the record back.
fn set(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn invalid(key: &[u8], value: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(value).chars().take(40).collect();
    format!("PAX {} is {shown:?}, expected a number", String::from_utf8_lossy(key))
}

fn number(key: &[u8], value: &[u8]) -> Result<Option<i64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    integer(value).map(Some).ok_or_else(|| invalid(key, value))
}

/// Seconds, optionally negative, optionally with a decimal fraction; digits past nanoseconds are
/// cut.
fn time(key: &[u8], value: &[u8]) -> Result<Option<Time>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let bad = || invalid(key, value);
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if nanos > 0 && whole.starts_with('-') {
        // The fraction counts backwards.
        let seconds = seconds.checked_sub(1).ok_or_else(bad)?;
        return Ok(Some(Time { seconds, nanos: 1_000_000_000 - nanos }));
    }
    Ok(Some(Time { seconds, nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3; // space, equals sign, newline
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn reads_what_matters() {
        let bytes = [
            record(b"path", b"long/name"),
            record(b"linkpath", b"target"),
            record(b"size", b"8589934592"),
            record(b"uid", b"1000"),
            record(b"gid", b"2000000"),
            record(b"mtime", b"1700000000.25"),
            record(b"atime", b"-5.5"),
            record(b"ctime", b"7"),
            record(b"SCHILY.xattr.security.capability", b"\x01\n\0=\n"),
            record(b"comment", b"ignored"),
        ]
        .concat();
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"long/name"[..]));
        assert_eq!(pax.link_path.as_deref(), Some(&b"target"[..]));
        assert_eq!(
            (pax.size, pax.uid, pax.gid),
            (Some(8_589_934_592), Some(1000), Some(2_000_000))
        );
        assert_eq!(pax.mtime, Some(Time { seconds: 1_700_000_000, nanos: 250_000_000 }));
        assert_eq!(pax.atime, Some(Time { seconds: -6, nanos: 500_000_000 }));
        assert_eq!(pax.ctime, Some(Time { seconds: 7, nanos: 0 }));
        assert_eq!(pax.xattrs[&b"security.capability"[..]], b"\x01\n\0=\n");
        assert_eq!(pax.sparse, PaxSparse::default());
        let listed = Pax::parse(&record(b"GNU.sparse.map", b"0,5,9,1")).unwrap().sparse;
        let single = [
            (&b"offset"[..], &b"0"[..]),
            (b"numbytes", b"5"),
            (b"offset", b"9"),
            (b"numbytes", b"1"),
        ]
        .map(|(key, value)| record(&[b"GNU.sparse.", key].concat(), value));
        assert_eq!(listed, Pax::parse(&single.concat()).unwrap().sparse);
        assert_eq!(listed.map, b"0,5,9,1");
        assert!(Pax::parse(&single[1]).is_err());
        // As many numbers as were said, and numbers.
        let numbers = |map: &[u8], pieces: &[u8]| {
            let records = [("map", map), ("numblocks", pieces)]
                .map(|(key, value)| record(format!("GNU.sparse.{key}").as_bytes(), value));
            Pax::parse(&records.concat()).unwrap().sparse.numbers().ok()
        };
        assert_eq!(numbers(b"0,5,9,1", b"2"), Some(vec![0, 5, 9, 1]));
        assert_eq!(numbers(b"", b"0"), Some(vec![]));
        for (map, pieces) in
            [(&b"0,5,x"[..], &b"1"[..]), (b"0,5", b"2"), (b"0,-5", b"1"), (b"0,5", b"")]
        {
            assert_eq!(numbers(map, pieces), None);
        }
    }

    #[test]
    fn refuses_malformed_records() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"0 \n",
            b"2 \n",
            b"+6 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"6 a-b\n",
            b"9 size=x\n",
            b"5 =b\n",
            b"7 a\0=b\n",
            b"12 path=a\0b\n",
            b"12 mtime=1.x\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn any_value_survives(value in proptest::collection::vec(any::<u8>(), 1..300)) {
            let pax = Pax::parse(&record(b"SCHILY.xattr.user.x", &value)).unwrap();
            prop_assert_eq!(&pax.xattrs[&b"user.x"[..]], &value);
        }
    }
}
