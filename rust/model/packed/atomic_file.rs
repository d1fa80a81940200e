//! Atomic creation of files: a file gets its name when it is complete.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Extension of incomplete files.
const EXTENSION: &str = "part";
/// Age from which an incomplete file without a lock is stale; a younger one may be of a writer that is about
/// to lock it.
const STALE_UNLOCKED: Duration = Duration::from_secs(60);
/// Age from which an incomplete file is stale where the file system has no locks.
const STALE_WITHOUT_LOCKS: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Writes a file in blocks of a huge page, each by one call, so that Linux keeps and maps it in huge pages
/// where the file system has them. Reading weights through small pages costs a tenth of the speed of
/// decoding.
///
/// Its temporary name is unique and must be new, so it has one writer. It is locked while the writer runs, so
/// that files of killed writers can be recognized, and removed if it is dropped before it is published.
pub struct AtomicFile {
    target: PathBuf,
    /// The temporary name.
    path: PathBuf,
    file: File,
    /// Bytes of the next block.
    buffer: Vec<u8>,
    position: u64,
}

impl AtomicFile {
    /// A file that becomes `target`, in the same folder. Its temporary name ends in 64 random bits: process
    /// ids may be equal where several machines share a folder.
    pub fn create(target: &Path) -> Result<AtomicFile> {
        loop {
            let random = RandomState::new().build_hasher().finish();
            let path = target.with_extension(format!("{}-{random:016x}.{EXTENSION}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    // Without locks, stale files are recognized by their age.
                    let _ = file.try_lock();
                    let (target, buffer) = (target.to_owned(), Vec::with_capacity(HUGE));
                    return Ok(AtomicFile { target, path, file, buffer, position: 0 });
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

    /// Writes zeros up to an offset in the file.
    pub fn pad(&mut self, to: u64) -> Result<()> {
        let zeros = [0; 4096];
        while self.position < to {
            let n = (to - self.position).min(zeros.len() as u64) as usize;
            self.write(&zeros[..n])?;
        }
        Ok(())
    }

    /// Renames the file to its target, which is replaced if it exists.
    pub fn publish(mut self) -> Result<()> {
        self.file.write_all(&self.buffer)?;
        std::fs::rename(&self.path, &self.target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // A published file has another name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the incomplete files of killed writers from a folder.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_temporary(path)) {
        if is_stale(&path).unwrap_or(false) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether a name is a temporary one of [`AtomicFile`]: other programs have files with this extension too.
fn is_temporary(path: &Path) -> bool {
    let text = |part: Option<&OsStr>| part.and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let stem = text(path.file_stem());
    let (name, own) = stem.split_once('.').unwrap_or_default();
    let digits = |text: &str, max| {
        !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (process, random) = own.split_once('-').unwrap_or_default();
    text(path.extension()) == EXTENSION && digits(name, 32) && digits(process, 10) && digits(random, 16)
}

fn is_stale(path: &Path) -> Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    // A time in the future comes from another machine's clock.
    let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    Ok(match file.try_lock() {
        Ok(()) => age > STALE_UNLOCKED,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age > STALE_WITHOUT_LOCKS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// A folder that is removed after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("lapwing-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a writable folder");
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).expect("it exists");
            let mut names: Vec<String> =
                entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("it exists");
        }
    }

    #[test]
    fn a_file_holds_all_written_pieces() {
        let folder = Folder::new("pieces");
        let target = folder.0.join("abc.packed");
        let mut file = AtomicFile::create(&target).expect("a writable folder");
        let mut want = Vec::new();
        for (i, n) in [24, HUGE, 5, 0, 3 * HUGE + 1, HUGE - 30, 1, 4096].into_iter().enumerate() {
            let piece: Vec<u8> = (0..n).map(|k| (k * 7 + i) as u8).collect();
            file.write(&piece).expect("room");
            want.extend(piece);
            let to = (want.len() as u64 + i as u64).next_multiple_of(4096);
            file.pad(to).expect("room");
            want.resize(to as usize, 0);
        }
        assert!(!target.exists());
        file.publish().expect("room");
        let got = std::fs::read(&target).expect("it was written");
        assert!(got == want, "{} bytes, expected {}", got.len(), want.len());
        assert_eq!(folder.names(), ["abc.packed"]);
    }

    #[test]
    fn writers_of_one_target_do_not_share_a_file() {
        let folder = Folder::new("writers");
        let target = folder.0.join("abc.packed");
        let mut files: Vec<AtomicFile> =
            (0..8).map(|_| AtomicFile::create(&target).expect("a unique name")).collect();
        for (i, file) in files.iter_mut().enumerate() {
            file.write(&[i as u8; 100]).expect("room");
        }
        assert_eq!(folder.names().len(), 8);
        files.pop().expect("eight").publish().expect("room");
        drop(files);
        assert_eq!(std::fs::read(&target).expect("it was written"), [7; 100]);
        assert_eq!(folder.names(), ["abc.packed"]);
    }

    #[test]
    fn only_files_of_killed_writers_are_removed() {
        let folder = Folder::new("stale");
        let aged = |name: &str, seconds: u64| {
            let file = File::create(folder.0.join(name)).expect("a writable folder");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("a time");
            file
        };
        let own = ["abc.1-0f.part", "abc.2-0f.part", "abc.3-0f.part"];
        let others = ["abc.4-0f.packed", "film.mkv.part", "film.part", "abc.5-0g.part"];
        drop(own.map(|name| aged(name, if name == own[1] { 10 } else { 3600 })));
        drop(others.map(|name| aged(name, 1 << 20)));
        let alive = File::open(folder.0.join(own[2])).expect("it exists");
        alive.try_lock().expect("no other lock");
        let own_file = AtomicFile::create(&folder.0.join("abc.packed")).expect("a unique name");
        own_file.file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
        let mine = own_file.path.file_name().and_then(OsStr::to_str).expect("UTF-8").to_owned();
        remove_stale(&folder.0);
        let mut left = [&own[1..], &others[..], &[mine.as_str()]].concat();
        left.sort_unstable();
        assert_eq!(folder.names(), left);
    }
}
