//! The range variant of asymmetric numeral systems, with four interleaved states and a static table.
//!
//! J. Duda, "Asymmetric numeral systems", 2013; F. Giesen, "Interleaved entropy coders", 2014. Symbol `i` belongs to state `i % 4`, all states share one
//! stream of 16-bit words, frequencies add up to 4096. A state is at least [`LOW`] and below 2^32; each ends where it began, which the decoder looks at.
//!
//! ```text
//! table   frequencies of the symbols from 0 on, until their sum is 4096: a byte 0 and a byte n for n + 1 symbols that do not occur,
//!         a byte below 128 for itself, a byte 128 + high and a byte low; then zeros up to a multiple of 4
//! stream  four states as u32, words as u16
//! ```

/// Interleaved states.
pub(super) const STATES: usize = 4;
/// Bits of frequencies.
pub(super) const SCALE_BITS: u32 = 12;
/// What the frequencies of a table add up to.
pub(super) const SCALE: u32 = 1 << SCALE_BITS;
/// Smallest state.
pub(super) const LOW: u32 = 1 << 16;

/// How often each byte occurs.
pub(super) type Counts = [u32; 256];

/// Frequencies near to the counts that add up to [`SCALE`], of 1 at least where a symbol occurs; at least two do.
pub(super) fn frequencies(counts: &Counts) -> [u16; 256] {
    let total: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    let share = |c: u32| if c == 0 { 0 } else { (u64::from(c) * u64::from(SCALE) / total).max(1) as u16 };
    let mut f: [u16; 256] = std::array::from_fn(|s| share(counts[s]));
    let mut sum: u32 = f.iter().map(|f| u32::from(*f)).sum();
    // One more or less goes where it changes the length of the stream by the most or by the least: about count / frequency.
    let ratio = |s: usize, of: u16| (u64::from(counts[s]) << 16) / u64::from(of);
    while sum < SCALE {
        let most = (0..256).filter(|s| counts[*s] > 0).max_by_key(|s| (ratio(*s, f[*s]), 256 - s));
        f[most.unwrap_or(0)] += 1;
        sum += 1;
    }
    while sum > SCALE {
        let least = (0..256).filter(|s| f[*s] > 1).min_by_key(|s| (ratio(*s, f[*s] - 1), *s));
        f[least.unwrap_or(0)] -= 1;
        sum -= 1;
    }
    f
}

/// Appends table and stream of `symbols`, in which each symbol occurs as often as `counts` says.
pub(super) fn encode(symbols: &[u8], counts: &Counts, out: &mut Vec<u8>) {
    let f = frequencies(counts);
    put_table(&f, out);
    let mut below = [0u32; 256];
    for s in 1..256 {
        below[s] = below[s - 1] + u32::from(f[s - 1]);
    }
    let (mut states, mut words) = ([LOW; STATES], Vec::new());
    for (i, symbol) in symbols.iter().enumerate().rev() {
        let (x, s) = (&mut states[i % STATES], *symbol as usize);
        let f = u32::from(f[s]);
        if u64::from(*x) >= u64::from(f) << (32 - SCALE_BITS) {
            words.push(*x as u16);
            *x >>= 16;
        }
        *x = ((*x / f) << SCALE_BITS) + *x % f + below[s];
    }
    states.iter().for_each(|x| out.extend(x.to_le_bytes()));
    words.iter().rev().for_each(|w| out.extend(w.to_le_bytes()));
}

fn put_table(f: &[u16; 256], out: &mut Vec<u8>) {
    let mut s = 0;
    while s < 256 {
        match f[s] {
            0 => {
                let absent = f[s..].iter().take_while(|f| **f == 0).count();
                if s + absent < 256 {
                    out.extend([0, (absent - 1) as u8]);
                }
                s += absent;
                continue;
            }
            small @ 1..128 => out.push(small as u8),
            large => out.extend([128 | (large >> 8) as u8, large as u8]),
        }
        s += 1;
    }
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Size of the table of these counts, about.
pub(super) fn table_bytes(counts: &Counts) -> u64 {
    let present = counts.iter().filter(|c| **c > 0).count();
    let gaps = counts.windows(2).filter(|w| w[0] > 0 && w[1] == 0).count();
    (present + 2 * gaps + 4) as u64
}
