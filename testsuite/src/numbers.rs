//! Numbers for tests that are the same in every run.

/// Numbers between -1 and 1 that have nothing to do with each other (the finaliser of SplitMix64, Steele, Lea and Flood, 2014).
#[must_use]
pub fn number(i: usize, seed: usize) -> f32 {
    let x = (i as u64 + ((seed as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
