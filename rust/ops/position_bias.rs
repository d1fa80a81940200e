//! Biases of scores that depend only on the distance between key and query (ALiBi, T5's buckets), or only on
//! the key.
//!
//! Each is one table per head over the distance `key - query`, or over the key's position. Attention adds a
//! contiguous piece of the table to a row of scores.

/// Values for distances `-reach..=reach`, `[heads, 2 * reach + 1]`, or for keys `0..=reach`,
/// `[heads, reach + 1]`.
#[derive(Debug, Clone)]
pub struct DistanceBias {
    reach: usize,
    of_keys: bool,
    table: Vec<f32>,
}

impl DistanceBias {
    /// Builds the table of `value(head, key - query)`.
    pub fn new(heads: usize, reach: usize, value: impl Fn(usize, isize) -> f32) -> Self {
        let reach_signed = reach as isize;
        let table = (0..heads)
            .flat_map(|h| (-reach_signed..=reach_signed).map(move |d| (h, d)))
            .map(|(h, d)| value(h, d));
        DistanceBias { reach, of_keys: false, table: table.collect() }
    }

    /// Builds the table of `value(head, key)`, which does not depend on the query.
    pub fn of_keys(heads: usize, reach: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let table = (0..heads).flat_map(|h| (0..=reach).map(move |k| (h, k))).map(|(h, k)| value(h, k));
        DistanceBias { reach, of_keys: true, table: table.collect() }
    }

    /// Largest distance in the table.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The biases of `keys` successive keys, the first at position `key`, for a query at position `query`.
    pub fn row(&self, head: usize, query: usize, key: usize, keys: usize) -> &[f32] {
        let start = if self.of_keys {
            head * (self.reach + 1) + key
        } else {
            head * (2 * self.reach + 1) + self.reach + key - query
        };
        &self.table[start..start + keys]
    }
}

/// T5's bucket of a distance. Raffel et al. 2020, <https://arxiv.org/abs/1910.10683>
///
/// Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`; with
/// `bidirectional` the upper half of all buckets is for keys after the query.
pub fn bucket(distance: isize, buckets: usize, max_distance: usize, bidirectional: bool) -> usize {
    let (mut buckets, mut offset) = (buckets, 0);
    let d = if bidirectional {
        buckets /= 2;
        offset = if distance > 0 { buckets } else { 0 };
        distance.unsigned_abs()
    } else {
        (-distance).max(0) as usize
    };
    let exact = buckets / 2;
    if d < exact {
        return offset + d;
    }
    // In single precision, like the reference.
    let ratio = (d as f32 / exact as f32).ln() / ((max_distance as f64 / exact as f64).ln() as f32);
    let far = exact + (ratio * (buckets - exact) as f32) as usize;
    offset + far.min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_near_and_saturate_far() {
        for d in 0..8 {
            assert_eq!(bucket(-d, 32, 128, true), d as usize);
            assert_eq!(bucket(d, 32, 128, true), if d == 0 { 0 } else { 16 + d as usize });
        }
        assert_eq!(bucket(-1000, 32, 128, true), 15);
        assert_eq!(bucket(1000, 32, 128, true), 31);
        assert_eq!(bucket(5, 32, 128, false), 0);
        assert_eq!(bucket(-1000, 32, 128, false), 31);
    }

    #[test]
    fn rows_are_pieces_of_the_table() {
        let bias = DistanceBias::new(2, 9, |h, d| h as f32 * 100.0 + d as f32);
        assert_eq!(bias.row(1, 4, 2, 3), [98.0, 99.0, 100.0]);
        let bias = DistanceBias::of_keys(2, 9, |h, k| h as f32 * 100.0 + k as f32);
        assert_eq!(bias.row(1, 4, 2, 3), [102.0, 103.0, 104.0]);
    }
}
