//! Packed weights in a file, which the next load maps instead of packing again.
//!
//! ```text
//! "lapwing2"  magic, 8 bytes, the last of them the version of this form
//! u64         length of the header, little endian
//! u64         its sum
//! header      JSON: the key, the whole length of the file, every tensor with its place and its sum
//! ...         each tensor's bytes, from a multiple of 4096
//! ```
//!
//! The key says what was packed and how; a file with another key is not used. A file is written beside its place and
//! renamed when it is whole, so nobody ever sees half of one, and files are never changed: mapped memory stays valid.
//!
//! Each load sums all that it maps, which takes as long as one token of decoding: reading all weights once, with all threads.
//! So it finds whatever a crash, a full disk or a hand has made of a file, and the load that writes one need not wait until
//! it is on the disk.

mod part;
mod sum;

use super::loader::Loader;
use super::weights::Loaded;
use crate::error::{Error, Result};
use crate::matmul::{LAYOUT_VERSION, Matrix, Storage};
use crate::tensor::WeightType;
use crate::threads::Team;
use part::Part;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use sum::{sum, sums};

const MAGIC: &[u8; 8] = b"lapwing2";
/// Tensors begin at multiples of this: a page, and more than any alignment that kernels ask for.
const ALIGN: u64 = 4096;
/// Bytes before the header.
const PREAMBLE: u64 = 24;
/// Longest header that is read.
const MOST_HEADER: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    layout: u32,
    key: String,
    parameters: usize,
    length: u64,
    tensors: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    names: Vec<String>,
    /// A weight type, or "values" for f32 vectors.
    kind: String,
    outputs: usize,
    inputs: usize,
    /// From the end of the header, rounded up to a page.
    offset: u64,
    length: u64,
    sum: u64,
}

impl Entry {
    /// Its first byte and the one behind its last, in a file of `whole` bytes; `None` where it does not lie in it.
    fn range(&self, base: u64, whole: u64) -> Option<std::ops::Range<usize>> {
        let start = base.checked_add(self.offset).filter(|start| start.is_multiple_of(ALIGN))?;
        let end = start.checked_add(self.length).filter(|&end| end <= whole)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

fn broken(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Checkpoint(format!("packed weights {}: {what}", path.display()))
}

fn aligned(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// What all parts of a file need: one entry for each packed tensor, with all its names.
fn entries(loader: &Loader) -> (Vec<Entry>, Vec<Loaded>) {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let (mut entries, mut loaded) = (Vec::<Entry>::new(), Vec::new());
    let mut offset = 0;
    for (name, value) in loader.loaded() {
        let (at, kind, outputs, inputs, length) = match value {
            Loaded::Matrix(m) => {
                let kind = m.weight_type().name();
                (Arc::as_ptr(m) as usize, kind, m.outputs(), m.inputs(), m.bytes() as u64)
            }
            Loaded::Values(v) => (Arc::as_ptr(v) as usize, "values", v.len(), 1, 4 * v.len() as u64),
        };
        if let Some(&place) = places.get(&at) {
            entries[place].names.push(name.to_owned());
            continue;
        }
        places.insert(at, entries.len());
        let names = vec![name.to_owned()];
        entries.push(Entry { names, kind: kind.to_owned(), outputs, inputs, offset, length, sum: 0 });
        loaded.push(value.clone());
        offset = aligned(offset + length);
    }
    (entries, loaded)
}

/// The bytes of a tensor in a file.
fn bytes(value: &Loaded) -> Cow<'_, [u8]> {
    match value {
        Loaded::Matrix(m) => m.as_bytes().into(),
        Loaded::Values(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Writes all that `loader` has taken to `path`, which appears when it is whole.
pub fn save(loader: &Loader, team: &Team<'_>, key: &str, path: &Path) -> Result<()> {
    let (mut entries, loaded) = entries(loader);
    let parts: Vec<Cow<'_, [u8]>> = loaded.iter().map(bytes).collect();
    let found = sums(team, &parts.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>())?;
    for (entry, sum) in entries.iter_mut().zip(found) {
        entry.sum = sum;
    }
    let end = entries.last().map_or(0, |e| e.offset + e.length);
    let mut header = Header {
        layout: LAYOUT_VERSION,
        key: key.to_owned(),
        parameters: loader.parameters(),
        length: u64::MAX,
        tensors: entries,
    };
    // The length counts the header, whose own length depends on its digits: room for the longest, filled with blanks.
    let room = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?.len();
    let base = aligned(PREAMBLE + room as u64);
    header.length = base + end;
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
    text.resize(room, b' ');

    let io = |e: std::io::Error| broken(path, e);
    if let Some(folder) = path.parent() {
        part::remove_stale(folder);
    }
    let mut file = Part::create(path).map_err(io)?;
    for piece in [MAGIC, &(room as u64).to_le_bytes()[..], &sum(&text).to_le_bytes(), &text] {
        file.write(piece).map_err(io)?;
    }
    for (entry, bytes) in header.tensors.iter().zip(&parts) {
        file.pad(base + entry.offset).map_err(io)?;
        for piece in bytes.chunks(16 << 20) {
            file.write(piece).map_err(io)?;
            team.check()?;
        }
    }
    file.publish().map_err(io)
}

/// Fills `loader` from `path`; false where there is no file, or one of another key or layout.
///
/// # Errors
/// The file is damaged: `loader` is as it was. Interrupted.
pub fn restore(loader: &mut Loader, team: &Team<'_>, key: &str, path: &Path) -> Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    let io = |e: std::io::Error| broken(path, e);
    let mut start = [0; PREAMBLE as usize];
    if file.read_exact(&mut start).is_err() || &start[..8] != MAGIC {
        return Ok(false);
    }
    let word = |at: usize| u64::from_le_bytes(start[at..at + 8].try_into().expect("eight bytes"));
    let room = word(8);
    if room > MOST_HEADER {
        return Ok(false);
    }
    let mut text = vec![0; room as usize];
    if file.read_exact(&mut text).is_err() || sum(&text) != word(16) {
        return Ok(false);
    }
    let Ok(header) = serde_json::from_slice::<Header>(&text) else { return Ok(false) };
    let whole = file.metadata().map_err(io)?.len();
    if header.layout != LAYOUT_VERSION || header.key != key || header.length != whole {
        return Ok(false);
    }
    // SAFETY: files of the cache are never changed once they have their name, only replaced or removed.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    // Where the system has none for files, small pages do.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let map = Arc::new(map);
    let base = aligned(PREAMBLE + room);
    let ranges: Vec<_> = header.tensors.iter().filter_map(|entry| entry.range(base, whole)).collect();
    if ranges.len() < header.tensors.len() {
        return Err(broken(path, "a tensor lies outside of the file"));
    }
    let parts: Vec<&[u8]> = ranges.iter().map(|range| &map[range.clone()]).collect();
    for (entry, sum) in header.tensors.iter().zip(sums(team, &parts)?) {
        if entry.sum != sum {
            return Err(broken(
                path,
                format!("the bytes of {} are not those that were written", entry.names.join(", ")),
            ));
        }
    }
    let mut tensors = Vec::with_capacity(parts.len());
    for (entry, range) in header.tensors.iter().zip(ranges) {
        let loaded = if entry.kind == "values" {
            let values =
                map[range].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
            Loaded::Values(Arc::new(values.collect()))
        } else {
            let data = Storage::Mapped { map: Arc::clone(&map), offset: range.start, length: range.len() };
            let kind = WeightType::named(&entry.kind)
                .ok_or_else(|| broken(path, format!("matrices of {:?} are unknown", entry.kind)))?;
            Loaded::Matrix(Arc::new(Matrix::from_parts(entry.outputs, entry.inputs, kind, data)?))
        };
        tensors.push((&entry.names[..], loaded));
    }
    loader.put(tensors).map_err(|e| broken(path, e))?;
    loader.set_parameters(header.parameters);
    Ok(true)
}
