//! PAX extended headers (POSIX.1-2001 pax, "pax Extended Header"): `<length> <key>=<value>\n`.
//!
//! Records are found by their length, so that values may hold any byte, newlines included: file
//! capabilities do.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::entry::{Time, owner};
use super::sparse::{PaxSparse, listed};

/// The records of one extended header that mean something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// As [`owner`] has it.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) ctime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Keys that come once for each stretch of a sparse file (0.0).
const PAIRS: [&[u8]; 2] = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"];

impl Pax {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let records = records(bytes)?;
        // Of several records with one key the last counts, and the others need not make sense.
        let last: HashMap<&[u8], usize> =
            records.iter().enumerate().map(|(at, (key, _))| (*key, at)).collect();
        let mut pax = Self::default();
        for (at, (key, value)) in records.into_iter().enumerate() {
            if last[key] == at || PAIRS.contains(&key) {
                pax.take(key, value)?;
            }
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"path" => self.path = set(value),
            b"linkpath" => self.link_path = set(value),
            b"size" => self.size = number(key, value)?,
            b"uid" => self.uid = owner_of(key, value)?,
            b"gid" => self.gid = owner_of(key, value)?,
            b"mtime" => self.mtime = time(key, value)?,
            b"atime" => self.atime = time(key, value)?,
            b"ctime" => self.ctime = time(key, value)?,
            b"GNU.sparse.major" => self.sparse.major = number(key, value)?,
            b"GNU.sparse.minor" => self.sparse.minor = number(key, value)?,
            b"GNU.sparse.name" => self.sparse.name = set(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number(key, value)?,
            b"GNU.sparse.map" => {
                self.sparse.numbers = listed(value).ok_or_else(|| invalid(key, value))?;
            }
            // By turns (0.0); what is out of turn makes no sense as a map.
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let turn = key == b"GNU.sparse.numbytes";
                if (self.sparse.numbers.len() % 2 == 1) != turn {
                    return Err("PAX records of a sparse file are out of order".into());
                }
                let number = number(key, value)?.ok_or_else(|| invalid(key, value))?;
                self.sparse.numbers.push(number);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err("PAX record of an extended attribute without a name".into());
                    }
                    match set(value) {
                        Some(value) => self.xattrs.insert(name.to_vec(), value),
                        None => self.xattrs.remove(name),
                    };
                }
                // Other keys (comment, uname, hdrcharset, ...) say nothing that an index holds.
            }
        }
        Ok(())
    }
}

/// Whether a global header says anything that would mean something to us, sensible or not. Only its
/// records have to be well-formed, as for Go.
pub(super) fn means_something(global: &[u8]) -> Result<bool, String> {
    records(global)?;
    Ok(Pax::parse(global).map_or(true, |pax| pax != Pax::default()))
}

/// All of a header's, in order.
fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (record, after) = split_record(rest)?;
        let equals =
            record.iter().position(|b| *b == b'=').ok_or("PAX record without an equals sign")?;
        records.push((&record[..equals], &record[equals + 1..]));
        rest = after;
    }
    Ok(records)
}

/// Splits `<length> <record>\n` off; the length counts itself and the newline.
fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let bad = || "malformed PAX record length".to_owned();
    let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
    let digits = std::str::from_utf8(&bytes[..space]).map_err(|_| bad())?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let length: usize = digits.parse().map_err(|_| bad())?;
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

fn number<T: std::str::FromStr>(key: &[u8], value: &[u8]) -> Result<Option<T>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| invalid(key, value))?;
    text.parse().map(Some).map_err(|_| invalid(key, value))
}

fn owner_of(key: &[u8], value: &[u8]) -> Result<Option<u32>, String> {
    let Some(number) = number::<i64>(key, value)? else { return Ok(None) };
    owner(number).map(Some).ok_or_else(|| invalid(key, value))
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
        assert_eq!(listed.numbers, [0, 5, 9, 1]);
        assert!(Pax::parse(&single[1]).is_err());
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
            b"24 GNU.sparse.map=0,5,x\n",
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
