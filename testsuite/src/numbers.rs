//! Numbers for tests that are the same in every run.

/// Numbers between -1 and 1 that have nothing to do with each other (the finaliser of SplitMix64, Steele, Lea and Flood, 2014).
#[must_use]
pub fn number(i: usize, seed: usize) -> f32 {
    let x = (i as u64 + ((seed as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Numbers of a normal distribution (Irwin and Hall: sums of twelve uniform ones), by a linear congruential generator.
#[must_use]
pub fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
