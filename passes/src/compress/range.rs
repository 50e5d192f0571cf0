//! Ranges of activations for quantisation, from histograms of what calibration saw.
//!
//! A range always holds zero, which padding and `relu` need to be exact. Within a range values are rounded to `levels` steps, beyond it clipped.

/// How often values of a tensor fell into bins of equal width.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Of each bin from `min` to `max`.
    pub counts: Vec<u64>,
}

/// How a range is found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ActivationRange {
    /// All that was seen.
    MinMax,
    /// As many percent of the values on each side of the range are within it, 99.99 for example.
    Percentile(f64),
    /// Least squared error of rounding and clipping.
    Mse,
    /// Least Kullback-Leibler divergence between the values and the rounded ones (Migacz, "8-bit Inference with TensorRT", 2017), symmetric about
    /// zero but for what was never seen.
    Kl,
}

/// Ends of ranges that are tried on each side.
const TRIED: usize = 100;

/// The smallest and the largest value that quantisation to so many `levels` should represent.
pub fn range(histogram: &Histogram, method: ActivationRange, levels: u32) -> (f32, f32) {
    let widest = (histogram.min.min(0.0), histogram.max.max(0.0));
    let total: u64 = histogram.counts.iter().sum();
    let finite = histogram.min.is_finite() && histogram.max.is_finite();
    if total == 0 || levels < 2 || !finite || histogram.max <= histogram.min {
        return widest;
    }
    match method {
        ActivationRange::MinMax => widest,
        ActivationRange::Percentile(percent) => percentile(histogram, total, percent),
        ActivationRange::Mse => least_squares(histogram, widest, f64::from(levels)),
        ActivationRange::Kl => divergence(histogram, widest, levels as usize),
    }
}

impl Histogram {
    fn width(&self) -> f64 {
        (f64::from(self.max) - f64::from(self.min)) / self.counts.len() as f64
    }

    /// Centres of bins and how many values are in them, without empty ones.
    fn bins(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(i, &count)| (f64::from(self.min) + (i as f64 + 0.5) * self.width(), count as f64))
    }
}

fn percentile(histogram: &Histogram, total: u64, percent: f64) -> (f32, f32) {
    let outside = total as f64 * (1.0 - percent.clamp(0.0, 100.0) / 100.0);
    // Whole bins that hold no more than what may be outside.
    let bins = |counts: &mut dyn Iterator<Item = &u64>| {
        let mut seen = 0.0;
        counts.take_while(|count| (seen += **count as f64, seen <= outside).1).count() as f64
    };
    let low = f64::from(histogram.min) + bins(&mut histogram.counts.iter()) * histogram.width();
    let high = f64::from(histogram.max) - bins(&mut histogram.counts.iter().rev()) * histogram.width();
    ((low as f32).min(0.0), (high as f32).max(0.0))
}

/// One end after the other, until neither moves.
fn least_squares(histogram: &Histogram, widest: (f32, f32), levels: f64) -> (f32, f32) {
    let bins: Vec<(f64, f64)> = histogram.bins().collect();
    let error = |(low, high): (f32, f32)| {
        let (low, step) = (f64::from(low), (f64::from(high) - f64::from(low)) / (levels - 1.0));
        let zero = (-low / step).round_ties_even();
        let one = |x: f64| ((x / step + zero).round_ties_even().clamp(0.0, levels - 1.0) - zero) * step - x;
        bins.iter().map(|(x, count)| one(*x).powi(2) * count).sum::<f64>()
    };
    let tried = |end: f32| (1..=TRIED).rev().map(move |i| end * i as f32 / TRIED as f32);
    let best = |ranges: &mut dyn Iterator<Item = (f32, f32)>| {
        let priced = ranges.filter(|(low, high)| high > low).map(|r| (error(r), r));
        priced.min_by(|a, b| a.0.total_cmp(&b.0)).map(|best| best.1)
    };
    let mut now = widest;
    for _ in 0..4 {
        let high = best(&mut tried(widest.1).map(|high| (now.0, high))).unwrap_or(now).1;
        let low = best(&mut tried(widest.0).map(|low| (low, high))).unwrap_or(now).0;
        if (low, high) == now {
            break;
        }
        now = (low, high);
    }
    now
}

/// The threshold of magnitudes at which the clipped distribution is most like the one that is quantised too.
fn divergence(histogram: &Histogram, widest: (f32, f32), levels: usize) -> (f32, f32) {
    let signed = widest.0 < 0.0 && widest.1 > 0.0;
    let levels = if signed { levels / 2 } else { levels };
    let peak = f64::from(widest.1.max(-widest.0));
    let mut magnitudes = vec![0.0; histogram.counts.len()];
    let places = magnitudes.len() as f64;
    for (x, count) in histogram.bins() {
        magnitudes[((x.abs() / peak * places) as usize).min(histogram.counts.len() - 1)] += count;
    }
    let ends = (levels..=magnitudes.len()).step_by((magnitudes.len() / 256).max(1));
    let priced = ends.map(|end| (kullback_leibler(&magnitudes, end, levels), end));
    let end = priced.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(magnitudes.len(), |best| best.1);
    let threshold = (peak * end as f64 / places) as f32;
    (widest.0.max(-threshold), widest.1.min(threshold))
}

/// Of the first `end` bins, what is beyond them counted into the last, and the same in `levels` steps.
fn kullback_leibler(counts: &[f64], end: usize, levels: usize) -> f64 {
    let (within, beyond) = counts.split_at(end);
    let mut clipped = within.to_vec();
    clipped[end - 1] += beyond.iter().sum::<f64>();
    let mut quantised = vec![0.0; end];
    for level in 0..levels {
        let bins = level * end / levels..(level + 1) * end / levels;
        let filled = within[bins.clone()].iter().filter(|c| **c > 0.0).count();
        let share = within[bins.clone()].iter().sum::<f64>() / filled.max(1) as f64;
        bins.filter(|&i| within[i] > 0.0).for_each(|i| quantised[i] = share);
    }
    let (all, kept): (f64, f64) = (clipped.iter().sum(), quantised.iter().sum());
    if kept == 0.0 {
        return f64::INFINITY;
    }
    // A bin that only what is clipped fills has no counterpart; a small one keeps the sum finite.
    let term = |p: f64, q: f64| if p > 0.0 { p / all * (p / all / (q / kept).max(1e-9)).ln() } else { 0.0 };
    clipped.iter().zip(&quantised).map(|(p, q)| term(*p, *q)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn histogram(values: &[f64], bins: usize) -> Histogram {
        let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let mut counts = vec![0; bins];
        values.iter().for_each(|v| counts[(((v - min) / (max - min) * bins as f64) as usize).min(bins - 1)] += 1);
        Histogram { min: min as f32, max: max as f32, counts }
    }

    fn error(values: &[f64], (low, high): (f32, f32), levels: f64) -> f64 {
        let step = f64::from(high - low) / (levels - 1.0);
        let zero = (f64::from(-low) / step).round();
        values.iter().map(|v| (((v / step + zero).round().clamp(0.0, levels - 1.0) - zero) * step - v).powi(2)).sum()
    }

    /// Normal values and a few far away.
    fn outliers(signed: bool) -> Vec<f64> {
        let mut random = Random(1);
        let one = |v: f64| if signed { v } else { v.max(0.0) };
        (0..20000).map(|i| one(random.normal()) * if i % 2000 == 0 { 12.0 } else { 1.0 }).collect()
    }

    #[test]
    fn everything_is_within_the_widest_range() {
        let values = outliers(true);
        let h = histogram(&values, 2048);
        assert_eq!(range(&h, ActivationRange::MinMax, 256), (h.min, h.max));
        assert_eq!(range(&h, ActivationRange::Percentile(100.0), 256), (h.min, h.max));
    }

    #[test]
    fn a_percentile_leaves_that_many_outside() {
        let values = outliers(true);
        let (low, high) = range(&histogram(&values, 2048), ActivationRange::Percentile(99.0), 256);
        for outside in
            [values.iter().filter(|v| **v < f64::from(low)).count(), values.iter().filter(|v| **v > f64::from(high)).count()]
        {
            assert!((150..=200).contains(&outside), "{outside}");
        }
    }

    #[test]
    fn least_squares_is_what_brute_force_finds() {
        for signed in [true, false] {
            let values = outliers(signed);
            let h = histogram(&values, 2048);
            let found = error(&values, range(&h, ActivationRange::Mse, 16), 16.0);
            let (low, high) = (h.min.min(0.0), h.max);
            let grid = (1..=60).flat_map(|i| (1..=60).map(move |j| (low * i as f32 / 60.0, high * j as f32 / 60.0)));
            let best = grid.map(|r| error(&values, r, 16.0)).fold(f64::INFINITY, f64::min);
            assert!(found < 1.03 * best && found < 0.5 * error(&values, (low, high), 16.0), "{found} {best}");
        }
    }

    #[test]
    fn divergence_clips_outliers_and_keeps_the_rest() {
        for signed in [true, false] {
            let (low, high) = range(&histogram(&outliers(signed), 2048), ActivationRange::Kl, 256);
            assert!((2.0..12.0).contains(&high), "{high}");
            assert!(if signed { (-12.0..-2.0).contains(&low) } else { low == 0.0 }, "{low}");
        }
    }

    #[test]
    fn values_that_say_nothing_have_a_range() {
        let all = [ActivationRange::MinMax, ActivationRange::Percentile(99.0), ActivationRange::Mse, ActivationRange::Kl];
        for method in all {
            assert_eq!(range(&Histogram { min: 2.0, max: 2.0, counts: vec![5] }, method, 256), (0.0, 2.0));
            assert_eq!(range(&Histogram { min: 0.0, max: 1.0, counts: vec![] }, method, 256), (0.0, 1.0));
            assert_eq!(range(&Histogram { min: 1.0, max: 3.0, counts: vec![1, 1] }, method, 256).0, 0.0);
        }
    }
}
