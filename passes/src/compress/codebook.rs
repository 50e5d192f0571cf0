//! Weight sharing: each weight becomes the nearest of a few values, kept as an index of 4 or 8 bits.
//!
//! k-means in one dimension (Han et al., "Deep Compression", 2016, §3), which sorting makes solvable exactly: clusters are runs of the sorted
//! values, and the best runs follow by dynamic programming over their ends (Wang and Song, "Ckmeans.1d.dp", 2011), whose optima move
//! monotonically, so that each cluster takes n log n steps (Grønlund et al., "Fast Exact k-Means", 2017, §2). Above [`EXACT`] values neighbours in
//! the sorted order are merged first; the steps of Lloyd's algorithm over all values that follow make the result a local optimum again.

/// So many points are clustered exactly.
const EXACT: usize = 4096;
/// Steps of Lloyd's algorithm after merging.
const STEPS: usize = 10;

/// A table of at most `clusters` values, ascending, and the index of each value into it. `weights` says how much an error of each value counts (the
/// diagonal of H, for example); None: all alike. Values that are not finite are counted as zero.
pub fn codebook(values: &[f32], clusters: usize, weights: Option<&[f64]>) -> (Vec<f32>, Vec<u8>) {
    assert!((1..=256).contains(&clusters), "internal: compress: an index has 8 bits");
    let finite = |v: f32| if v.is_finite() { f64::from(v) } else { 0.0 };
    // What counts for nothing still has to be somewhere: near the values like it.
    let weight = |i: usize| weights.map_or(1.0, |w| if w[i] > 0.0 && w[i].is_finite() { w[i] } else { f64::MIN_POSITIVE });
    let mut points: Vec<Point> = values.iter().enumerate().map(|(i, &v)| Point { at: finite(v), weight: weight(i) }).collect();
    points.sort_by(|a, b| a.at.total_cmp(&b.at));
    let points = merge(&points, 0.0, usize::MAX);
    let few = merge(&points, points.iter().map(|p| p.weight).sum::<f64>() / EXACT as f64, EXACT);
    let mut table = best_runs(&few, clusters);
    if few.len() < points.len() {
        (0..STEPS).for_each(|_| lloyd(&points, &mut table));
    }
    let table: Vec<f32> = table.iter().map(|&v| v as f32).collect();
    let index = values.iter().map(|&v| nearest(&table, finite(v) as f32) as u8).collect();
    (table, index)
}

#[derive(Clone, Copy)]
struct Point {
    at: f64,
    weight: f64,
}

/// Neighbours in one place become one point; so do those that together weigh less than `least`, if there are more than `most` points.
fn merge(points: &[Point], least: f64, most: usize) -> Vec<Point> {
    let least = if points.len() > most { least } else { 0.0 };
    let mut out: Vec<Point> = Vec::new();
    for p in points {
        match out.last_mut() {
            Some(last) if last.at == p.at || last.weight + p.weight < least => {
                let weight = last.weight + p.weight;
                last.at += (p.at - last.at) * (p.weight / weight);
                last.weight = weight;
            }
            _ => out.push(*p),
        }
    }
    out
}

/// Sums over the first points, about the middle of all so that little is lost by differences.
struct Sums(Vec<[f64; 3]>);

impl Sums {
    fn new(points: &[Point], middle: f64) -> Sums {
        let mut sums = vec![[0.0; 3]];
        for p in points {
            let (x, [w, s, q]) = (p.at - middle, sums[sums.len() - 1]);
            sums.push([w + p.weight, s + p.weight * x, q + p.weight * x * x]);
        }
        Sums(sums)
    }

    /// Weight and sum of the points `start..end`, and their squared error about the mean.
    fn run(&self, start: usize, end: usize) -> (f64, f64, f64) {
        let [weight, sum, square] = std::array::from_fn(|i| self.0[end][i] - self.0[start][i]);
        (weight, sum, if weight > 0.0 { (square - sum * sum / weight).max(0.0) } else { 0.0 })
    }
}

/// The means of the runs of sorted points with the least squared error.
fn best_runs(points: &[Point], clusters: usize) -> Vec<f64> {
    let n = points.len();
    if n <= clusters {
        return points.iter().map(|p| p.at).collect();
    }
    let middle = (points[0].at + points[n - 1].at) / 2.0;
    let sums = Sums::new(points, middle);
    // Least error of the first `end` points in so many runs, and where the last of them starts.
    let mut error: Vec<f64> = (0..=n).map(|end| sums.run(0, end).2).collect();
    let mut starts: Vec<Vec<u32>> = Vec::new();
    for _ in 1..clusters {
        let (mut next, mut start) = (vec![0.0; n + 1], vec![0; n + 1]);
        extend(&sums, &error, (&mut next, &mut start), (1, n), (0, n - 1));
        starts.push(start);
        error = next;
    }
    let mut table = Vec::with_capacity(clusters);
    let mut end = n;
    for start in starts.iter().rev().map(Some).chain([None]) {
        let first = start.map_or(0, |s| s[end] as usize);
        let (weight, sum, _) = sums.run(first, end);
        if first < end {
            table.push(if weight > 0.0 { middle + sum / weight } else { points[first].at });
        }
        end = first;
    }
    table.reverse();
    table.dedup();
    table
}

/// One more run for each of the `ends`, where the best starts of the last run lie between `starts`: halves, because they grow with the end.
fn extend(sums: &Sums, error: &[f64], out: (&mut [f64], &mut [u32]), ends: (usize, usize), starts: (usize, usize)) {
    if ends.0 > ends.1 {
        return;
    }
    let end = ends.0.midpoint(ends.1);
    let mut best = (f64::INFINITY, starts.0);
    let last = starts.1.min(end);
    for (start, before) in (starts.0..).zip(&error[starts.0..=last]) {
        let total = before + sums.run(start, end).2;
        if total < best.0 {
            best = (total, start);
        }
    }
    (out.0[end], out.1[end]) = (best.0, best.1 as u32);
    extend(sums, error, (&mut *out.0, &mut *out.1), (ends.0, end - 1), (starts.0, best.1));
    extend(sums, error, out, (end + 1, ends.1), (best.1, starts.1));
}

/// One step: points go to the nearest value, values to the mean of their points.
fn lloyd(points: &[Point], table: &mut [f64]) {
    let (mut start, last) = (0, table.len());
    for t in 0..last {
        let limit = if t + 1 < last { (table[t] + table[t + 1]) / 2.0 } else { f64::INFINITY };
        let end = start + points[start..].partition_point(|p| p.at <= limit);
        let weight: f64 = points[start..end].iter().map(|p| p.weight).sum();
        if weight > 0.0 {
            let first = points[start].at;
            table[t] = first + points[start..end].iter().map(|p| (p.at - first) * (p.weight / weight)).sum::<f64>();
        }
        start = end;
    }
}

fn nearest(table: &[f32], value: f32) -> usize {
    let after = table.partition_point(|t| *t < value);
    let closer = |i: usize, j: usize| if (value - table[i]).abs() <= (table[j] - value).abs() { i } else { j };
    match after {
        0 => 0,
        _ if after == table.len() => after - 1,
        _ => closer(after - 1, after),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn normal(seed: u64, n: usize) -> Vec<f32> {
        let mut random = Random(seed);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    fn error(values: &[f32], table: &[f32], index: &[u8], weights: Option<&[f64]>) -> f64 {
        let one = |(i, v): (usize, &f32)| f64::from(v - table[usize::from(index[i])]).powi(2) * weights.map_or(1.0, |w| w[i]);
        values.iter().enumerate().map(one).sum()
    }

    #[test]
    fn few_values_are_kept_as_they_are() {
        let (table, index) = codebook(&[0.5, -1.0, 0.5, 3.0], 16, None);
        assert_eq!((table, index), (vec![-1.0, 0.5, 3.0], vec![1, 0, 1, 2]));
        assert_eq!(codebook(&[], 16, None), (vec![], vec![]));
    }

    /// All ways to cut 12 sorted values into 4 runs.
    #[test]
    fn clusters_are_the_best_there_are() {
        for seed in 0..20 {
            let mut values = normal(seed, 12);
            let importance: Vec<f64> = normal(seed + 100, 12).iter().map(|v| f64::from(v.abs())).collect();
            values.sort_by(f32::total_cmp);
            for weights in [None, Some(&importance[..])] {
                let run = |r: std::ops::Range<usize>| {
                    let w = |i: usize| weights.map_or(1.0, |w| w[i]);
                    let mean = r.clone().map(|i| w(i) * f64::from(values[i])).sum::<f64>() / r.clone().map(w).sum::<f64>();
                    r.map(|i| w(i) * (f64::from(values[i]) - mean).powi(2)).sum::<f64>()
                };
                let cuts = (1..10).flat_map(|a| (a + 1..11).flat_map(move |b| (b + 1..12).map(move |c| (a, b, c))));
                let best = cuts.map(|(a, b, c)| run(0..a) + run(a..b) + run(b..c) + run(c..12)).fold(f64::INFINITY, f64::min);
                let (table, index) = codebook(&values, 4, weights);
                let found = error(&values, &table, &index, weights);
                assert!(found < best * (1.0 + 1e-5), "seed {seed}: {found} {best}");
            }
        }
    }

    /// Merging first loses next to nothing against the exact clusters of all values.
    #[test]
    fn many_values_are_clustered_nearly_as_well() {
        let values = normal(3, 3 * EXACT);
        let mut points: Vec<Point> = values.iter().map(|&v| Point { at: f64::from(v), weight: 1.0 }).collect();
        points.sort_by(|a, b| a.at.total_cmp(&b.at));
        let exact: Vec<f32> = best_runs(&points, 16).iter().map(|&v| v as f32).collect();
        let index: Vec<u8> = values.iter().map(|&v| nearest(&exact, v) as u8).collect();
        let (table, found) = codebook(&values, 16, None);
        let (found, best) = (error(&values, &table, &found, None), error(&values, &exact, &index, None));
        assert!(found < 1.001 * best, "{found} {best}");
    }

    #[test]
    fn important_values_are_met_more_closely() {
        let values = normal(4, 500);
        let importance: Vec<f64> = values.iter().map(|v| if *v > 0.5 { 100.0 } else { 1.0 }).collect();
        let of = |weights| {
            let (table, index) = codebook(&values, 16, weights);
            assert!(table.len() == 16 && table.is_sorted());
            error(&values, &table, &index, Some(&importance))
        };
        assert!(of(Some(&importance)) < 0.5 * of(None));
    }

    #[test]
    fn values_that_are_not_numbers_have_an_index() {
        let (table, index) = codebook(&[f32::NAN, 1.0, f32::INFINITY], 2, Some(&[1.0, 0.0, f64::NAN]));
        assert_eq!((table, index), (vec![0.0, 1.0], vec![0, 1, 0]));
    }
}
