//! Numbers of blocks and slots, which sequences share by reference counts. Their memory comes and goes in
//! chunks.

use crate::error::{Error, Result};

/// Numbers with reference counts, a chunk of them at a time.
pub struct Counted {
    /// What a number stands for, in errors.
    what: &'static str,
    per_chunk: usize,
    references: Vec<u32>,
    free: Vec<u32>,
    /// Chunks that have no memory.
    vacant: Vec<usize>,
}

impl Counted {
    /// No numbers yet; `per_chunk` is at least 1.
    pub fn new(what: &'static str, per_chunk: usize) -> Counted {
        Counted { what, per_chunk, references: Vec::new(), free: Vec::new(), vacant: Vec::new() }
    }

    /// References of each number; 0 if it is free.
    pub fn references(&self) -> &[u32] {
        &self.references
    }

    /// Numbers with references.
    pub fn in_use(&self) -> usize {
        self.references.len() - self.free.len() - self.vacant.len() * self.per_chunk
    }

    /// A number with one reference. `allocate(chunk)` makes the memory of a chunk when no number is free.
    pub fn allocate(&mut self, allocate: impl FnOnce(usize) -> Result<()>) -> Result<u32> {
        if self.free.is_empty() {
            let chunk = self.vacant.last().copied().unwrap_or(self.references.len() / self.per_chunk);
            let end = u32::try_from((chunk + 1) * self.per_chunk)
                .map_err(|_| Error::Memory(format!("the cache has no {} numbers left", self.what)))?;
            allocate(chunk)?;
            self.vacant.pop();
            self.references.resize(self.references.len().max(end as usize), 0);
            self.free.extend((end - self.per_chunk as u32..end).rev());
        }
        let number = self.free.pop().expect("a chunk was added");
        self.references[number as usize] = 1;
        Ok(number)
    }

    pub fn reference(&mut self, number: u32) {
        self.references[number as usize] += 1;
    }

    pub fn release(&mut self, number: u32) {
        let count = &mut self.references[number as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(number);
        }
    }

    /// Frees all numbers; the memory stays.
    pub fn clear(&mut self) {
        self.references.fill(0);
        let Counted { references, free, vacant, per_chunk, .. } = self;
        free.clear();
        let numbers = (0..references.len() as u32).rev();
        free.extend(numbers.filter(|&number| !vacant.contains(&(number as usize / *per_chunk))));
    }

    /// Calls `release(chunk)`, which frees the memory, for chunks without references until at most `most`
    /// chunks have memory.
    pub fn shrink(&mut self, most: usize, mut release: impl FnMut(usize)) {
        let chunks = self.references.len() / self.per_chunk;
        let surplus = (chunks - self.vacant.len()).saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let mut unused = vec![0; chunks];
        self.free.iter().for_each(|&number| unused[number as usize / self.per_chunk] += 1);
        let released = (0..chunks).rev().filter(|&chunk| unused[chunk] == self.per_chunk);
        for chunk in released.take(surplus) {
            release(chunk);
            self.vacant.push(chunk);
        }
        let (vacant, per_chunk) = (&self.vacant, self.per_chunk);
        self.free.retain(|&number| !vacant.contains(&(number as usize / per_chunk)));
    }
}
