//! Packed weights in a file, which the next load maps instead of packing again.
//!
//! ```text
//! "lapwing\n"  magic, 8 bytes
//! u64          length of the header, little endian
//! u64          its checksum (FNV-1a)
//! header       JSON: the key, the whole length of the file, every tensor with its place
//! ...          each tensor's bytes, from a multiple of 4096
//! ```
//!
//! The key says what was packed and how; a file with another key is not used. A file is written beside its place and
//! renamed when it is whole, so nobody ever sees half of one, and files are never changed: mapped memory stays valid.

use super::loader::Loader;
use super::weights::Loaded;
use crate::error::{Error, Result};
use crate::matmul::{LAYOUT_VERSION, Matrix, Storage};
use crate::tensor::WeightType;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"lapwing\n";
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
}

fn broken(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Checkpoint(format!("packed weights {}: {what}", path.display()))
}

/// Fowler, Noll and Vo's hash, which a damaged header does not keep.
fn checksum(text: &[u8]) -> u64 {
    text.iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
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
        entries.push(Entry { names, kind: kind.to_owned(), outputs, inputs, offset, length });
        loaded.push(value.clone());
        offset = aligned(offset + length);
    }
    (entries, loaded)
}

/// Writes all that `loader` has taken to `path`, which appears when it is whole.
pub fn save(loader: &Loader, key: &str, path: &Path, interrupted: &dyn Fn() -> bool) -> Result<()> {
    let (entries, loaded) = entries(loader);
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

    let part = path.with_extension(format!("{}.part", std::process::id()));
    let write = || -> std::io::Result<bool> {
        let mut file = Blocks::new(File::create(&part)?);
        file.write(MAGIC)?;
        file.write(&(room as u64).to_le_bytes())?;
        file.write(&checksum(&text).to_le_bytes())?;
        file.write(&text)?;
        for (entry, value) in header.tensors.iter().zip(&loaded) {
            file.pad(base + entry.offset)?;
            let floats: Vec<u8>;
            let bytes = match value {
                Loaded::Matrix(m) => m.as_bytes(),
                Loaded::Values(v) => {
                    floats = v.iter().flat_map(|x| x.to_le_bytes()).collect();
                    &floats
                }
            };
            for piece in bytes.chunks(16 << 20) {
                file.write(piece)?;
                if interrupted() {
                    return Ok(false);
                }
            }
        }
        file.pad(header.length)?;
        file.finish()?;
        std::fs::rename(&part, path)?;
        Ok(true)
    };
    match write() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let _ = std::fs::remove_file(&part);
            Err(Error::Interrupted)
        }
        Err(e) => {
            let _ = std::fs::remove_file(&part);
            Err(broken(path, e))
        }
    }
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Writes a file in whole blocks of this size, each by one call: so Linux keeps it in huge pages where the file system has
/// them, and maps them as such. Reading weights through small pages costs a tenth of the speed of decoding.
struct Blocks {
    file: File,
    /// The beginning of the next block.
    buffer: Vec<u8>,
    position: u64,
}

impl Blocks {
    fn new(file: File) -> Blocks {
        Blocks { file, buffer: Vec::with_capacity(HUGE), position: 0 }
    }

    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(HUGE - self.buffer.len()));
            bytes = later;
            if now.len() == HUGE {
                self.file.write_all(now)?;
                continue;
            }
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == HUGE {
                self.file.write_all(&self.buffer)?;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    /// Zeros up to a place in the file.
    fn pad(&mut self, to: u64) -> std::io::Result<()> {
        let zeros = [0; ALIGN as usize];
        while self.position < to {
            let n = (to - self.position).min(ALIGN) as usize;
            self.write(&zeros[..n])?;
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.file.write_all(&self.buffer)
    }
}

/// Fills `loader` from `path`; false where there is no file, or one of another key or layout.
pub fn restore(loader: &mut Loader, key: &str, path: &Path) -> Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    let io = |e: std::io::Error| broken(path, e);
    let mut start = [0; PREAMBLE as usize];
    if file.read_exact(&mut start).is_err() || &start[..8] != MAGIC {
        return Ok(false);
    }
    let word = |at: usize| u64::from_le_bytes(start[at..at + 8].try_into().expect("eight bytes"));
    let (room, sum) = (word(8), word(16));
    if room > MOST_HEADER {
        return Ok(false);
    }
    let mut text = vec![0; room as usize];
    if file.read_exact(&mut text).is_err() || checksum(&text) != sum {
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
    for entry in &header.tensors {
        let place = base.checked_add(entry.offset).filter(|p| p.is_multiple_of(ALIGN));
        let range = place.and_then(|p| Some(p..p.checked_add(entry.length)?)).filter(|r| r.end <= whole);
        let Some(range) = range else { return Err(broken(path, "a tensor lies outside of the file")) };
        let (offset, length) = (range.start as usize, entry.length as usize);
        let loaded = if entry.kind == "values" {
            let bytes = &map[offset..offset + length];
            let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
            Loaded::Values(Arc::new(values.collect()))
        } else {
            let data = Storage::Mapped { map: Arc::clone(&map), offset, length };
            let kind = WeightType::named(&entry.kind)
                .ok_or_else(|| broken(path, format!("matrices of {:?} are unknown", entry.kind)))?;
            let matrix = Matrix::from_parts(entry.outputs, entry.inputs, kind, data)?;
            Loaded::Matrix(Arc::new(matrix))
        };
        loader.put(&entry.names, loaded).map_err(|e| broken(path, e))?;
    }
    loader.set_parameters(header.parameters);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_was_written_in_any_pieces() {
        let path = std::env::temp_dir().join(format!("lapwing-blocks-{}", std::process::id()));
        let mut file = Blocks::new(File::create(&path).expect("a folder that can be written"));
        let mut want = Vec::new();
        for (i, n) in [24, HUGE, 5, 0, 3 * HUGE + 1, HUGE - 30, 1, ALIGN as usize].into_iter().enumerate() {
            let piece: Vec<u8> = (0..n).map(|k| (k * 7 + i) as u8).collect();
            file.write(&piece).expect("room");
            want.extend(piece);
            let to = aligned(want.len() as u64 + i as u64);
            file.pad(to).expect("room");
            want.resize(to as usize, 0);
        }
        file.finish().expect("room");
        let got = std::fs::read(&path).expect("it was written");
        std::fs::remove_file(&path).expect("it is there");
        assert!(got == want, "{} bytes, expected {}", got.len(), want.len());
    }
}
