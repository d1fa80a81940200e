//! A file that is written beside its place and appears there when it is whole.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Extension of files that are not whole.
const EXTENSION: &str = "part";
/// Age of a part that nobody holds locked, from which its writer is gone and has not just begun.
const YOUNG: Duration = Duration::from_secs(60);
/// The same where the file system knows no locks.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Writes a file in whole blocks of a huge page, each by one call: so Linux keeps it in huge pages where the file system has
/// them, and maps them as such. Reading weights through small pages costs a tenth of the speed of decoding.
///
/// Nobody else writes to it: its name is its own, and it must not have been there. It is locked as long as its writer
/// lives, so that others can tell what a killed one has left, and removed if it is dropped before it is published.
pub struct Part {
    place: PathBuf,
    path: PathBuf,
    file: File,
    /// The beginning of the next block.
    buffer: Vec<u8>,
    position: u64,
}

impl Part {
    /// A file beside `place`, whose name ends in 64 random bits: processes may have equal numbers where several machines
    /// share a folder.
    pub fn create(place: &Path) -> Result<Part> {
        loop {
            let random = RandomState::new().build_hasher().finish();
            let path = place.with_extension(format!("{}-{random:016x}.{EXTENSION}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    // Where there are no locks, the age of a file tells.
                    let _ = file.try_lock();
                    let (place, buffer) = (place.to_owned(), Vec::with_capacity(HUGE));
                    return Ok(Part { place, path, file, buffer, position: 0 });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
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
    pub fn pad(&mut self, to: u64) -> Result<()> {
        let zeros = [0; 4096];
        while self.position < to {
            let n = (to - self.position).min(zeros.len() as u64) as usize;
            self.write(&zeros[..n])?;
        }
        Ok(())
    }

    /// Gives the file its name, in place of what has it.
    pub fn publish(mut self) -> Result<()> {
        self.file.write_all(&self.buffer)?;
        std::fs::rename(&self.path, &self.place)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nothing has this name any more if it was published.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the parts in a folder whose writers are gone.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_part(path)) {
        if is_stale(&path).unwrap_or(false) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether a name is one that [`Part::create`] gives: other programs have parts too.
fn is_part(path: &Path) -> bool {
    let text = |part: Option<&OsStr>| part.and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let stem = text(path.file_stem());
    let (name, own) = stem.split_once('.').unwrap_or_default();
    let digits = |text: &str, most| {
        !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (process, random) = own.split_once('-').unwrap_or_default();
    text(path.extension()) == EXTENSION && digits(name, 32) && digits(process, 10) && digits(random, 16)
}

fn is_stale(path: &Path) -> Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    // A time that has yet to come is that of another machine's clock.
    let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    Ok(match file.try_lock() {
        Ok(()) => age > YOUNG,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age > OLD,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// A folder that ends with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("lapwing-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder that can be written");
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).expect("it is there");
            let mut names: Vec<String> =
                entries.map(|e| e.expect("an entry").file_name().into_string().expect("a text")).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("it is there");
        }
    }

    #[test]
    fn a_part_holds_what_was_written_in_any_pieces() {
        let folder = Folder::new("pieces");
        let place = folder.0.join("abc.packed");
        let mut part = Part::create(&place).expect("a folder that can be written");
        let mut want = Vec::new();
        for (i, n) in [24, HUGE, 5, 0, 3 * HUGE + 1, HUGE - 30, 1, 4096].into_iter().enumerate() {
            let piece: Vec<u8> = (0..n).map(|k| (k * 7 + i) as u8).collect();
            part.write(&piece).expect("room");
            want.extend(piece);
            let to = (want.len() as u64 + i as u64).next_multiple_of(4096);
            part.pad(to).expect("room");
            want.resize(to as usize, 0);
        }
        assert!(!place.exists());
        part.publish().expect("room");
        let got = std::fs::read(&place).expect("it was written");
        assert!(got == want, "{} bytes, expected {}", got.len(), want.len());
        assert_eq!(folder.names(), ["abc.packed"]);
    }

    #[test]
    fn writers_of_one_place_do_not_share_a_part() {
        let folder = Folder::new("writers");
        let place = folder.0.join("abc.packed");
        let mut parts: Vec<Part> = (0..8).map(|_| Part::create(&place).expect("a name of its own")).collect();
        for (i, part) in parts.iter_mut().enumerate() {
            part.write(&[i as u8; 100]).expect("room");
        }
        assert_eq!(folder.names().len(), 8);
        parts.pop().expect("eight").publish().expect("room");
        drop(parts);
        assert_eq!(std::fs::read(&place).expect("it was written"), [7; 100]);
        assert_eq!(folder.names(), ["abc.packed"]);
    }

    #[test]
    fn what_killed_writers_left_is_removed_and_nothing_else() {
        let folder = Folder::new("stale");
        let aged = |name: &str, seconds: u64| {
            let file = File::create(folder.0.join(name)).expect("a folder that can be written");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("a time");
            file
        };
        let own = ["abc.1-0f.part", "abc.2-0f.part", "abc.3-0f.part"];
        let others = ["abc.4-0f.packed", "film.mkv.part", "film.part", "abc.5-0g.part"];
        drop(own.map(|name| aged(name, if name == own[1] { 10 } else { 3600 })));
        drop(others.map(|name| aged(name, 1 << 20)));
        let alive = File::open(folder.0.join(own[2])).expect("it is there");
        alive.try_lock().expect("nobody has it");
        let part = Part::create(&folder.0.join("abc.packed")).expect("a name of its own");
        part.file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
        let mine = part.path.file_name().and_then(OsStr::to_str).expect("a text").to_owned();
        remove_stale(&folder.0);
        let mut left = [&own[1..], &others[..], &[mine.as_str()]].concat();
        left.sort_unstable();
        assert_eq!(folder.names(), left);
    }
}
