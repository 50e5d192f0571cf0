//! Which parts of the weights are coded alike, and how each of their lanes is.
//!
//! Constants are cut into pieces; neighbours become one run as long as that takes fewer bytes than two, which have two tables. Sizes are counted from
//! histograms, in integers, so that they are the same on every machine.

use rayon::prelude::*;

use super::rans::{self, Counts};

/// Lanes that are counted apart: those of the longest element.
const LANES: usize = 4;
/// Runs and, where the weights allow it, pieces begin at multiples of this, which all elements divide.
const GRAIN: u64 = 64;
/// About how many pieces the weights are cut into at most: histograms of all of them are in memory.
const PIECES: u64 = 8192;
/// No run is longer: its size is stored in 32 bits.
const LONGEST: usize = 1 << 30;
/// Bytes of the head of a run or a lane.
const HEAD: u64 = 8;
/// A lane is coded when that takes off this part of it at least; less is not worth the time of the decoder.
const WORTH: u64 = 128;

/// How a lane is stored.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// As it is.
    Raw,
    /// As one byte.
    Fill(u8),
    /// By the range coder; how often each byte occurs.
    Rans(Box<Counts>),
}

/// Bytes that are coded alike.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Where they begin.
    pub at: usize,
    /// How many they are.
    pub bytes: usize,
    /// Each lane; as many as the period.
    pub ways: Vec<Way>,
}

/// A part of the weights while runs are made of them.
struct Piece {
    at: usize,
    bytes: usize,
    lanes: Box<[Counts; LANES]>,
    /// Bytes that it takes as a run.
    cost: u64,
    /// It has changed since its neighbours were looked at.
    fresh: bool,
}

/// The runs of bytes; where constants begin, `starts` says.
pub(super) fn choose(bytes: &[u8], starts: &[u64]) -> Vec<Run> {
    let cuts = cuts(bytes.len() as u64, starts);
    let mut pieces: Vec<Piece> = cuts.par_windows(2).map(|w| Piece::of(bytes, w[0] as usize, w[1] as usize)).collect();
    loop {
        let before = pieces.len();
        pieces = join_neighbours(pieces);
        if pieces.len() == before {
            break;
        }
    }
    pieces.iter().map(|p| Run { at: p.at, bytes: p.bytes, ways: best(&p.lanes).1 }).collect()
}

/// Bytes of one run.
pub(super) fn bytes_of(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { Piece::of(bytes, 0, bytes.len()).cost }
}

/// Where pieces begin, and the end. Small constants are together, large ones are cut.
fn cuts(bytes: u64, starts: &[u64]) -> Vec<u64> {
    let fine = (bytes / PIECES).next_power_of_two().max(8 * GRAIN);
    let coarse = 8 * fine;
    let mut cuts = vec![0];
    for start in starts.iter().map(|s| s.next_multiple_of(GRAIN)).chain([bytes]) {
        let mut last = cuts[cuts.len() - 1];
        while start.min(bytes) > last + coarse + fine {
            last += coarse;
            cuts.push(last);
        }
        if start < bytes && start >= last + fine {
            cuts.push(start);
        }
    }
    cuts.push(bytes);
    cuts
}

/// Joins every piece with the next where that takes fewer bytes; none with two, so that pieces grow evenly.
fn join_neighbours(pieces: Vec<Piece>) -> Vec<Piece> {
    let joined = |w: &[Piece]| if w[0].fresh || w[1].fresh { w[0].joined(&w[1]) } else { None };
    let joined: Vec<Option<Piece>> = pieces.par_windows(2).map(joined).collect();
    let (mut out, mut joined) = (Vec::with_capacity(pieces.len()), joined.into_iter());
    let mut pieces = pieces.into_iter();
    while let Some(piece) = pieces.next() {
        match joined.next().flatten() {
            Some(both) => {
                out.push(both);
                // The next piece is in it.
                pieces.next();
                joined.next();
            }
            None => out.push(Piece { fresh: false, ..piece }),
        }
    }
    out
}

impl Piece {
    fn of(bytes: &[u8], at: usize, end: usize) -> Piece {
        let mut lanes = Box::new([[0; 256]; LANES]);
        for (i, byte) in bytes[at..end].iter().enumerate() {
            lanes[i % LANES][*byte as usize] += 1;
        }
        let cost = best(&lanes).0;
        Piece { at, bytes: end - at, lanes, cost, fresh: true }
    }

    /// Both as one, if that is no longer.
    fn joined(&self, next: &Piece) -> Option<Piece> {
        let bytes = self.bytes + next.bytes;
        if bytes > LONGEST {
            return None;
        }
        let mut lanes = self.lanes.clone();
        lanes.iter_mut().zip(next.lanes.iter()).for_each(|(a, b)| add(a, b));
        let cost = best(&lanes).0;
        (cost <= self.cost + next.cost).then_some(Piece { at: self.at, bytes, lanes, cost, fresh: true })
    }
}

fn add(to: &mut Counts, counts: &Counts) {
    to.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
}

/// The period with the fewest bytes, and how its lanes are stored.
fn best(lanes: &[Counts; LANES]) -> (u64, Vec<Way>) {
    let candidates = [1, 2, 4].map(|period: usize| {
        let mut merged = vec![[0; 256]; period];
        lanes.iter().enumerate().for_each(|(i, counts)| add(&mut merged[i % period], counts));
        let (costs, ways): (Vec<u64>, Vec<Way>) = merged.iter().map(best_way).unzip();
        (HEAD + costs.iter().sum::<u64>(), ways)
    });
    // The shortest period of equal ones: it is the fastest to decode.
    candidates.into_iter().min_by_key(|c| (c.0, c.1.len())).unwrap_or_default()
}

/// Bytes of a lane with its head, and how it is stored.
fn best_way(counts: &Counts) -> (u64, Way) {
    let n: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    if let Some(byte) = counts.iter().position(|c| u64::from(*c) == n) {
        return (HEAD, Way::Fill(byte as u8));
    }
    let states = size_of::<u32>() * rans::STATES;
    let coded = rans::table_bytes(counts) + states as u64 + entropy_bytes(counts, n);
    if coded + n / WORTH < n { (HEAD + coded, Way::Rans(Box::new(*counts))) } else { (HEAD + n, Way::Raw) }
}

/// Length of `n` symbols that occur so often, by Shannon: the sum of count * log2(n / count) bits.
fn entropy_bytes(counts: &Counts, n: u64) -> u64 {
    let of = |c: u64| c * log2(c);
    let known: u64 = counts.iter().filter(|c| **c > 0).map(|c| of(u64::from(*c))).sum();
    (of(n).saturating_sub(known) >> FRACTION) / 8
}

/// Bits behind the point of [`log2`].
const FRACTION: u32 = 16;
/// Bits of a number that its logarithm is looked up by.
const MANTISSA: u32 = 10;

/// The logarithm of a number above 0 that is below 2^32, with [`FRACTION`] bits behind the point; what is behind the first bits of the number is cut off.
fn log2(n: u64) -> u64 {
    static TABLE: [u32; 1 << MANTISSA] = fractions();
    let exponent = n.ilog2();
    let mantissa = (n << (63 - exponent) << 1) >> (64 - MANTISSA);
    (u64::from(exponent) << FRACTION) + u64::from(TABLE[mantissa as usize])
}

/// log2(1 + i / 2^MANTISSA), a bit at a time: squaring doubles a logarithm.
const fn fractions() -> [u32; 1 << MANTISSA] {
    let mut table = [0; 1 << MANTISSA];
    let mut i = 0;
    while i < table.len() {
        // 1 to 2 with 31 bits behind the point.
        let (mut x, mut log, mut bit) = ((1u64 << 31) + ((i as u64) << (31 - MANTISSA)), 0, FRACTION);
        while bit > 0 {
            bit -= 1;
            x = (x * x) >> 31;
            if x >= 1 << 32 {
                (x, log) = (x >> 1, log | 1 << bit);
            }
        }
        table[i] = log;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_near() {
        for n in [1u64, 2, 3, 5, 1000, 4095, 4097, 123_456_789, u64::from(u32::MAX)] {
            let (got, want) = (log2(n) as f64 / f64::from(1 << FRACTION), (n as f64).log2());
            assert!((want - 0.002..=want + 1e-4).contains(&got), "log2({n}) = {got}, not {want}");
        }
    }

    #[test]
    fn pieces_cover_everything() {
        for (bytes, starts) in [(1, vec![0]), (100_000, vec![0, 64, 70, 50_000]), (3 << 20, vec![]), (640, vec![0, 600])] {
            let cuts = cuts(bytes, &starts);
            assert!(cuts[0] == 0 && cuts[cuts.len() - 1] == bytes && cuts.is_sorted_by(|a, b| a < b), "{cuts:?}");
            assert!(cuts[..cuts.len() - 1].iter().all(|c| c % GRAIN == 0), "{cuts:?}");
        }
    }
}
