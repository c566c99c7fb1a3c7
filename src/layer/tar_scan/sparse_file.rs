//! Sparse files in a tar: their map is in their headers, or comes before their content.

use super::header::{TarHeader, count};
use super::{BLOCK, ScanError, State, TarScanner, end, malformed, refused};
use crate::clip::node::NodePath;
use crate::layer::entry::{EntryKind, Meta};
use crate::layer::sparse::{Expansion, Form, MapText, PaxSparse, old_fields, old_size};
use crate::layer::{Contents, Limit};

/// A sparse file whose map is still coming.
#[derive(Debug)]
pub(super) struct Sparse {
    path: NodePath,
    meta: Meta,
    /// Of the whole file.
    size: u64,
    /// Bytes in the tar, and then padding.
    remaining: u64,
    padding: u64,
    map: Map,
}

#[derive(Debug)]
enum Map {
    /// In blocks that continue the header; offsets and lengths so far.
    Old(Vec<u64>),
    /// At the start of the content.
    Text(MapText),
}

impl TarScanner {
    /// Begins a sparse file: its map is in its headers, or comes before its content.
    pub(super) fn sparse(
        &mut self,
        header: TarHeader<'_>,
        (path, meta, remaining, padding): (NodePath, Meta, u64, u64),
        pax: &PaxSparse,
        form: Option<Form>,
        offset: u64,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let wrong = |detail: &str| malformed(offset, &format!("{path}: {detail}"));
        let block = header.block();
        let whole_size = || pax.whole_size(remaining).map_err(|e| wrong(&e));
        let (size, numbers, map) = match form {
            Some(Form::InContent) => {
                (whole_size()?, Vec::new(), Some(Map::Text(MapText::default())))
            }
            Some(Form::InRecords) => (whole_size()?, pax.numbers().map_err(|e| wrong(&e))?, None),
            None if !header.is_gnu() => {
                return Err(wrong("a header of a sparse file that is not GNU's"));
            }
            None => {
                let (fields, more) = old_fields(block, true);
                let numbers = numbers(fields, offset)?;
                let size = count(old_size(block), "real size", offset)?;
                if more {
                    (size, Vec::new(), Some(Map::Old(numbers)))
                } else {
                    (size, numbers, None)
                }
            }
        };
        let file = |map| Sparse { path, meta, size, remaining, padding, map };
        match map {
            Some(map) => Ok(State::Map(Box::new(file(map)))),
            None => self.mapped(file(Map::Old(Vec::new())), &numbers, contents),
        }
    }

    /// Takes the next block of a sparse file's map.
    pub(super) fn map_block(
        &mut self,
        mut file: Box<Sparse>,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let offset = self.position - BLOCK as u64;
        let wrong = |detail: &str| malformed(offset, detail);
        let place = || format!("at offset {offset}");
        let numbers = match &mut file.map {
            Map::Old(known) => {
                let (fields, more) = old_fields(&self.block, false);
                known.extend(numbers(fields, offset)?);
                let bytes = known.len() as u64 * 12;
                Limit::ExtensionBytes.check(bytes, self.limits.extension_bytes, place)?;
                (!more).then(|| std::mem::take(known))
            }
            Map::Text(text) => {
                file.remaining = file
                    .remaining
                    .checked_sub(BLOCK as u64)
                    .ok_or_else(|| wrong("the map of a sparse file is longer than the file"))?;
                let numbers = text.take(&self.block).map_err(|e| wrong(&e))?;
                Limit::ExtensionBytes.check(text.len(), self.limits.extension_bytes, place)?;
                numbers
            }
        };
        match numbers {
            Some(numbers) => self.mapped(*file, &numbers, contents),
            None => Ok(State::Map(file)),
        }
    }

    /// Takes a sparse file down whose map is known.
    fn mapped(
        &mut self,
        file: Sparse,
        numbers: &[u64],
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let Sparse { path, meta, size, remaining, padding, .. } = file;
        let offset = self.position;
        let wrong = |e: String| malformed(offset, &format!("{path}: {e}"));
        let mut expansion = Expansion::new(size, numbers, remaining).map_err(wrong)?;
        self.expanded = self.expanded.saturating_add(expansion.size());
        let place = || path.to_string();
        Limit::PlainBytes.check(self.expanded, self.limits.plain_bytes, place)?;
        // Holes cost nothing in the tar, but whoever takes files whole writes them.
        if self.expanded >= self.limits.ratio_from {
            let ratio = self.expanded / self.position.max(1);
            Limit::Ratio.check(ratio, self.limits.ratio, place)?;
        }
        let wanted = contents.begin(&path, offset, size).map_err(refused)?;
        if wanted && remaining == 0 {
            end(Some(&mut expansion), contents)?;
        }
        let expansion = Some(Box::new(expansion));
        let follows =
            State::Content { remaining, padding, wanted: wanted && remaining > 0, expansion };
        self.take(path, EntryKind::Sparse { meta, offset, length: size }, follows)
    }
}

fn numbers<'a>(fields: impl Iterator<Item = &'a [u8]>, offset: u64) -> Result<Vec<u64>, ScanError> {
    fields.map(|field| count(field, "sparse map", offset)).collect()
}
