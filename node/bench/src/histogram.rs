//! Latencies, counted: a histogram whose buckets are as wide as a fixed share of what is in them.
//!
//! - Values up to 127 ns have a bucket each. Above, an octave has 64 buckets, so a quantile is at most
//!   one part in 64 above the true one, and never below it.
//! - Least, greatest and mean are exact.
//! - The memory is constant: [`BUCKETS`] counters.

/// Buckets of an octave, as a power of two.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// The octave of the longest latency that is told from longer ones: 2^42 ns, 73 minutes.
const OCTAVE_MAX: u32 = 41;
/// How many buckets there are.
pub const BUCKETS: usize = (OCTAVE_MAX - SUB_BITS + 2) as usize * SUB;

/// How often which latency was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        let buckets = vec![0; BUCKETS].into_boxed_slice();
        Self { buckets, count: 0, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }

    /// Counts a latency, in nanoseconds.
    pub fn record(&mut self, latency_ns: u64) {
        self.buckets[bucket_of(latency_ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(latency_ns);
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(one, more)| *one += more);
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least, in nanoseconds; zero when nothing was counted.
    pub fn min_ns(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min_ns }
    }

    /// The greatest, in nanoseconds; zero when nothing was counted.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The mean, in nanoseconds, rounded down; zero when nothing was counted.
    pub fn mean_ns(&self) -> u64 {
        let mean = self.sum_ns.checked_div(u128::from(self.count)).unwrap_or(0);
        u64::try_from(mean).expect("a mean is not above the greatest")
    }

    /// What so many of a million are not above, in nanoseconds: 500,000 for the median. It is the
    /// upper end of a bucket, or the greatest latency when that is less. Zero when nothing was
    /// counted.
    ///
    /// # Panics
    ///
    /// When `per_million` is above a million.
    pub fn quantile_ns(&self, per_million: u32) -> u64 {
        assert!(per_million <= 1_000_000, "a share of a million");
        let rank = (u128::from(self.count) * u128::from(per_million)).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && bucket == BUCKETS - 1 {
                return self.max_ns;
            }
            if seen >= rank {
                return upper_end(bucket).clamp(self.min_ns, self.max_ns);
            }
        }
        0
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << (OCTAVE_MAX + 1)) - 1);
    let octave = value.checked_ilog2().unwrap_or(0);
    let shift = octave.saturating_sub(SUB_BITS);
    shift as usize * SUB + usize::try_from(value >> shift).expect("below two octaves of buckets")
}

/// The greatest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let shift = bucket / SUB - 1;
    let lead = (bucket % SUB + SUB) as u64;
    ((lead + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(next), bucket, "the least of bucket {bucket}");
            let end = upper_end(bucket);
            assert_eq!(bucket_of(end), bucket, "the greatest of bucket {bucket}");
            assert!((end - next) * 64 <= next, "bucket {bucket} is too wide");
            next = end + 1;
        }
        assert_eq!(next, 1 << 42);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_one_tells_zero() {
        let empty = Histogram::new();
        assert_eq!((empty.count(), empty.min_ns(), empty.mean_ns(), empty.max_ns()), (0, 0, 0, 0));
        assert_eq!(empty.quantile_ns(990_000), 0);
    }

    #[test]
    fn what_is_longer_than_the_last_bucket_is_told_as_the_greatest() {
        let mut one = Histogram::new();
        one.record(1 << 50);
        one.record(7);
        assert_eq!((one.quantile_ns(500_000), one.quantile_ns(500_001)), (7, 1 << 50));
        one.record(1 << 50);
        assert_eq!((one.quantile_ns(500_000), one.max_ns()), (1 << 50, 1 << 50));
    }

    proptest! {
        /// Against all values, sorted.
        #[test]
        fn quantiles_are_those_of_the_values(
            parts in prop::collection::vec(
                prop::collection::vec((0..40_u32, any::<u64>()), 0..200), 1..4,
            ),
            per_million in 0..=1_000_000_u32,
        ) {
            let mut all = Vec::new();
            let mut whole = Histogram::new();
            for part in &parts {
                let mut one = Histogram::new();
                for (octave, value) in part {
                    let value = value >> (63 - octave);
                    all.push(value);
                    one.record(value);
                }
                whole.add(&one);
            }
            prop_assume!(!all.is_empty());
            all.sort_unstable();
            let count = all.len() as u64;
            let rank = (count * u64::from(per_million)).div_ceil(1_000_000).max(1);
            let exact = all[usize::try_from(rank - 1).expect("small")];
            let told = whole.quantile_ns(per_million);
            prop_assert!(told >= exact && told - exact <= exact / 64, "{told} for {exact}");
            prop_assert_eq!(whole.count(), count);
            prop_assert_eq!(whole.min_ns(), all[0]);
            prop_assert_eq!(whole.max_ns(), all[all.len() - 1]);
            let sum: u128 = all.iter().map(|value| u128::from(*value)).sum();
            prop_assert_eq!(u128::from(whole.mean_ns()), sum / u128::from(count));
        }
    }
}
