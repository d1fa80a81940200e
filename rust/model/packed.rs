//! A file of packed weights, which the next load maps instead of packing again.
//!
//! ```text
//! "lapwing2"  magic, 8 bytes, the last one is the version of the format
//! u64         length of the header, little endian
//! u64         checksum of the header
//! header      JSON: the key, the length of the file, the offset and the checksum of each tensor
//! ...         the bytes of each tensor, at multiples of 4096
//! ```
//!
//! The key identifies the weights and their packing; a file with another key is not used. A file is written
//! under a temporary name and renamed when it is complete, so no reader sees an incomplete one, and files
//! never change: mapped memory stays valid.
//!
//! Each load verifies the checksums of all mapped bytes, which takes as long as one token of decoding: it
//! reads all weights once, on all threads. So damage by a crash, a full disk or an edit is detected, and the
//! load that writes a file need not wait for the disk.

mod atomic_file;
mod checksum;

use super::loader::Loader;
use super::walk::Loaded;
use crate::error::{Error, Result};
use crate::matmul::{LAYOUT_VERSION, Matrix, Storage};
use crate::tensor::WeightType;
use crate::threads::Team;
use atomic_file::AtomicFile;
use checksum::{checksum, checksums};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"lapwing2";
/// Alignment of tensors: a page, which exceeds the alignment of all kernels.
const ALIGN: u64 = 4096;
/// Bytes before the header.
const PREAMBLE: u64 = 24;
/// Maximum length of a header.
const MAX_HEADER: u64 = 64 << 20;

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
    /// The range of its bytes in a file of `size` bytes; `None` if it lies outside.
    fn range(&self, base: u64, size: u64) -> Option<std::ops::Range<usize>> {
        let start = base.checked_add(self.offset).filter(|start| start.is_multiple_of(ALIGN))?;
        let end = start.checked_add(self.length).filter(|&end| end <= size)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

fn broken(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Checkpoint(format!("packed weights {}: {what}", path.display()))
}

fn aligned(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// One entry for each packed tensor, with all of its names, and the tensors.
fn entries(loader: &Loader) -> (Vec<Entry>, Vec<Loaded>) {
    let mut known: HashMap<usize, usize> = HashMap::new();
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
        if let Some(&index) = known.get(&at) {
            entries[index].names.push(name.to_owned());
            continue;
        }
        known.insert(at, entries.len());
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

/// Writes all tensors of `loader` to `path`, which appears when it is complete.
pub fn save(loader: &Loader, team: &Team<'_>, key: &str, path: &Path) -> Result<()> {
    let (mut entries, loaded) = entries(loader);
    let parts: Vec<Cow<'_, [u8]>> = loaded.iter().map(bytes).collect();
    let found = checksums(team, &parts.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>())?;
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
    // The length includes the header, whose length depends on the digits of that number: the header has room
    // for the largest number and is padded with spaces.
    let room = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?.len();
    let base = aligned(PREAMBLE + room as u64);
    header.length = base + end;
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
    text.resize(room, b' ');

    let io = |e: std::io::Error| broken(path, e);
    if let Some(folder) = path.parent() {
        atomic_file::remove_stale(folder);
    }
    let mut file = AtomicFile::create(path).map_err(io)?;
    for piece in [MAGIC, &(room as u64).to_le_bytes()[..], &checksum(&text).to_le_bytes(), &text] {
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

/// Fills `loader` from `path`. Returns false if the file is missing or has another key or layout.
///
/// # Errors
/// The file is damaged, or an interrupt; `loader` is unchanged then.
pub fn restore(loader: &mut Loader, team: &Team<'_>, key: &str, path: &Path) -> Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    let io = |e: std::io::Error| broken(path, e);
    let mut start = [0; PREAMBLE as usize];
    if file.read_exact(&mut start).is_err() || &start[..8] != MAGIC {
        return Ok(false);
    }
    let word = |at: usize| u64::from_le_bytes(start[at..at + 8].try_into().expect("eight bytes"));
    let room = word(8);
    if room > MAX_HEADER {
        return Ok(false);
    }
    let mut text = vec![0; room as usize];
    if file.read_exact(&mut text).is_err() || checksum(&text) != word(16) {
        return Ok(false);
    }
    let Ok(header) = serde_json::from_slice::<Header>(&text) else { return Ok(false) };
    let size = file.metadata().map_err(io)?.len();
    if header.layout != LAYOUT_VERSION || header.key != key || header.length != size {
        return Ok(false);
    }
    // SAFETY: files of the cache never change under their final name, they are only replaced or removed.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    // A hint: file systems without huge pages map small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let map = Arc::new(map);
    let base = aligned(PREAMBLE + room);
    let ranges: Vec<_> = header.tensors.iter().filter_map(|entry| entry.range(base, size)).collect();
    if ranges.len() < header.tensors.len() {
        return Err(broken(path, "a tensor lies outside the file"));
    }
    let parts: Vec<&[u8]> = ranges.iter().map(|range| &map[range.clone()]).collect();
    for (entry, sum) in header.tensors.iter().zip(checksums(team, &parts)?) {
        if entry.sum != sum {
            return Err(broken(
                path,
                format!("the checksum of {} is wrong: the file is damaged", entry.names.join(", ")),
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
