//! Rounding against brute force on small layers.

use onnxc_ir::target::{SHORT_SUM, sum_size};

use super::super::testing::{Inputs, Random, apply, moments, relative_error};
use super::super::{Balance, Damping, Mask, Repair, Shape};
use super::*;

fn layer(seed: u64, n: usize, k: usize) -> (Matrix, Vec<f32>) {
    let mut random = Random(seed);
    let inputs = Inputs::new(&mut random, k.div_ceil(3), k);
    (random.matrix(n, k), inputs.rows(&mut random, 300))
}

fn decoded(rounded: &Rounded, n: usize, k: usize, block: usize) -> Matrix {
    let blocks = k.div_ceil(block);
    let value = |i: usize| rounded.scales[i / k * blocks + i % k / block] * f32::from(rounded.values[i]);
    Matrix { n, k, values: (0..n * k).map(value).collect() }
}

const GRIDS: [Grid; 5] = [
    Grid { bits: 8, block: None, range: WeightRange::MinMax, sums: None },
    Grid { bits: 4, block: None, range: WeightRange::MinMax, sums: None },
    Grid { bits: 4, block: None, range: WeightRange::Mse, sums: None },
    Grid { bits: 4, block: Some(32), range: WeightRange::Mse, sums: None },
    Grid { bits: 8, block: None, range: WeightRange::Mse, sums: Some(Sums { channels: 10, steps: 2, apart: false }) },
];

#[test]
fn errors_are_those_of_the_rows() {
    let (w, rows) = layer(1, 6, 40);
    let dense = apply(&w, &[0.0; 6], &rows);
    for grid in GRIDS {
        for how in [Rounding::Nearest, Rounding::Gptq] {
            let rounded = round(&w, (&moments(40, &rows), None), &grid, None, how);
            let now = apply(&decoded(&rounded, 6, 40, grid.block.unwrap_or(40)), &rounded.bias_shift, &rows);
            let error = relative_error(6, &dense, &now);
            assert!((rounded.error - error).abs() < 1e-6 * error, "{grid:?} {how:?}: {} {error}", rounded.error);
            assert!(rounded.values.iter().all(|&v| i32::from(v).abs() < 1 << (grid.bits - 1)));
        }
    }
}

#[test]
fn making_up_for_errors_beats_rounding_to_nearest() {
    for grid in GRIDS {
        let (mut ratio, seeds) = (0.0, 5);
        for seed in 0..seeds {
            // Longer than what waits, so that updates of both kinds are seen.
            let (w, rows) = layer(seed, 8, 150);
            let error = |how| round(&w, (&moments(150, &rows), None), &grid, None, how).error;
            let (nearest, gptq) = (error(Rounding::Nearest), error(Rounding::Gptq));
            assert!(gptq <= nearest, "{grid:?}: {gptq} {nearest}");
            ratio += gptq / nearest / seeds as f64;
        }
        assert!(ratio < 0.5, "{grid:?}: {ratio}");
    }
}

/// A sweep fits few rows too well: no output is worse than its nearest integers on the rows that judge.
#[test]
fn sweeps_that_do_not_hold_on_other_rows_are_not_taken() {
    let (n, k, grid) = (8, 60, GRIDS[2]);
    let (w, rows) = layer(11, n, k);
    let (few, others) = rows.split_at(40 * k);
    let (few, others) = (moments(k, few), moments(k, others));
    let rows = Centred::imitating(&w, &others);
    let error = |check: Option<&Moments>, how: Rounding| -> Vec<f64> {
        let rounded = decoded(&round(&w, (&few, check), &grid, None, how), n, k, k);
        errors(&rows, Mat::from_fn(k, n, |p, c| f64::from(rounded.values[c * k + p] - w.values[c * k + p])).as_ref())
    };
    let (nearest, alone, judged) =
        (error(None, Rounding::Nearest), error(None, Rounding::Gptq), error(Some(&others), Rounding::Gptq));
    assert!(judged.iter().zip(&nearest).all(|(j, n)| *j <= n * (1.0 + 1e-9)), "{judged:?} {nearest:?}");
    assert!(alone.iter().zip(&nearest).any(|(a, n)| *a > 1.1 * n) && judged != nearest, "{alone:?} {nearest:?}");
}

/// The integers of the sweep are not far from the best ones, which are known where there are few.
#[test]
fn the_sweep_comes_close_to_the_best_integers() {
    let grid = Grid { bits: 3, block: None, range: WeightRange::MinMax, sums: None };
    let (mut swept, mut best, mut nearest) = (0.0, 0.0, 0.0);
    for seed in 0..10 {
        let (w, rows) = layer(100 + seed, 1, 5);
        let h = moments(5, &rows);
        swept += round(&w, (&h, None), &grid, None, Rounding::Gptq).error;
        nearest += round(&w, (&h, None), &grid, None, Rounding::Nearest).error;
        let rows = Rows::new(&w, (&h, None));
        let levels = Levels::of(&grid, &w, &rows.importance, None);
        let scales = scales(&w, &rows.importance, &grid, &levels, false);
        let layer = Layer { w: &w, block: None, levels, rows: &rows, scales };
        let error = |code: usize| {
            let values: Vec<i8> = (0..5).map(|p| (code / 7usize.pow(p) % 7) as i8 - 3).collect();
            rows.fed.relative(errors(&rows.fed, layer.difference(&values, &layer.scales).as_ref())[0])
        };
        best += (0..7usize.pow(5)).map(error).fold(f64::INFINITY, f64::min);
    }
    assert!(swept - best < 0.5 * (nearest - best), "{best} {swept} {nearest}");
}

#[test]
fn a_clipped_range_is_better_for_few_bits() {
    let (mut w, rows) = layer(3, 8, 256);
    (0..8).for_each(|c| w.values[c * 256 + 5] = 5.0);
    let h = moments(256, &rows);
    let error = |range| round(&w, (&h, None), &Grid { bits: 4, block: None, range, sums: None }, None, Rounding::Nearest).error;
    assert!(error(WeightRange::Mse) < 0.9 * error(WeightRange::MinMax));
}

/// A table of 16 values fits weights better than the 15 integers of four bits, the sweep makes up for its errors, and both say what they lose.
#[test]
fn tables_suit_weights_better_than_integers_of_as_many_bits() {
    let (w, rows) = layer(7, 24, 60);
    let h = moments(60, &rows);
    let error = |how| {
        let rounded = round_to_table(&w, (&h, None), None, how);
        let mut values = rounded.values.clone();
        values.sort_unstable();
        values.dedup();
        assert!(values.len() <= 16);
        let now = apply(&decoded(&rounded, 24, 60, 60), &rounded.bias_shift, &rows);
        let error = relative_error(24, &apply(&w, &[0.0; 24], &rows), &now);
        assert!((rounded.error - error).abs() < 1e-6 * error, "{} {error}", rounded.error);
        error
    };
    let integers = |how| round(&w, (&h, None), &GRIDS[2], None, how).error;
    assert!(error(Rounding::Nearest) < 0.9 * integers(Rounding::Nearest));
    assert!(error(Rounding::Gptq) < 0.9 * integers(Rounding::Gptq));
}

/// What the weights of a tap, or of a list of steps, add up to as kernels bring together so many steps of four channels.
fn largest_sum(values: &[i8], steps: &[Vec<usize>], together: usize) -> i32 {
    let word = |steps: &[Vec<usize>], word: usize| {
        sum_size(steps.iter().flat_map(|step| step.iter().skip(2 * word).take(2)).map(|p| i32::from(values[*p])))
    };
    steps.chunks(together).map(|steps| word(steps, 0).max(word(steps, 1))).max().unwrap_or(0)
}

/// The positions of each step from one position on.
fn steps(from: usize, channels: usize) -> Vec<Vec<usize>> {
    (0..channels).step_by(4).map(|c| (from + c..from + channels.min(c + 4)).collect()).collect()
}

/// Sums hold what they may, at an error much closer to that of a bit more than to that of integers whose sums do whatever they are beside; so do those of the steps
/// that masks leave.
#[test]
fn sums_are_short_and_nearly_as_good_as_more_bits() {
    let (n, k, channels) = (16, 150, 30);
    let (w, rows) = layer(8, n, k);
    let h = moments(k, &rows);
    let grid = |bits, sums| Grid { bits, block: None, range: WeightRange::Mse, sums };
    let shape = Shape { group: 4, unit: 4, channels, taps: k / channels, whole_channels: false };
    let pruned =
        super::super::prune(&w, &h, None, &shape, &[0.5], Mask::Obs, Repair::Refit, Balance::Equal, Damping::Fixed(1e-2))
            .remove(0);
    let dense = |values: &[i8], together: usize| {
        let row = |row: &[i8]| (0..k).step_by(channels).map(|tap| largest_sum(row, &steps(tap, channels), together)).max();
        values.chunks(k).filter_map(row).max().unwrap()
    };
    let listed = |values: &[i8], together: usize| {
        let units = shape.units();
        let of = |(c, row): (usize, &[i8])| {
            let mut kept = pruned.kept[c / shape.group].clone();
            kept.sort_unstable();
            largest_sum(row, &kept.iter().map(|u| units[*u as usize].clone()).collect::<Vec<_>>(), together)
        };
        values.chunks(k).enumerate().map(of).max().unwrap()
    };
    for (together, bits) in [(1, 8), (2, 7), (4, 7)] {
        let sums = Sums { channels, steps: together, apart: false };
        let short = grid(8, Some(sums));
        for how in [Rounding::Nearest, Rounding::Gptq] {
            let error = |grid: Grid| round(&w, (&h, None), &grid, None, how).error;
            let (less, all) = (error(grid(bits - 1, None)), error(grid(bits, None)));
            let rounded = round(&w, (&h, None), &short, None, how);
            assert!(dense(&rounded.values, together) <= SHORT_SUM);
            assert!(dense(&round(&w, (&h, None), &grid(8, None), None, how).values, together) > SHORT_SUM);
            assert!(rounded.values.iter().any(|v| i32::from(*v).abs() > SHORT_SUM / together as i32 / 2));
            assert!(rounded.error < 0.6 * less, "{how:?}, {together}: {} of {less}, {all}", rounded.error);
            let masked = round(&pruned.weights, (&h, None), &short, Some((&shape, &pruned.kept)), how);
            assert!(listed(&masked.values, together) <= SHORT_SUM);
        }
        let (values, scales) = nearest(&w, &grid(8, Some(Sums { apart: true, ..sums })));
        let off =
            (0..n * k).map(|i| (f32::from(values[i]) * scales[i / k] - w.values[i]).abs() / scales[i / k]).fold(0.0, f32::max);
        assert!(dense(&values, 1) <= SHORT_SUM / together as i32 && off < 40.0, "{off}");
    }
}

/// One step for all outputs, as long as it clips nothing; as many weights as wanted are not zero, and the sweep makes up for the others.
#[test]
fn a_share_of_the_weights_is_not_zero() {
    let (n, k) = (16, 90);
    let (mut w, rows) = layer(9, n, k);
    let (h, other) = (moments(k, &rows), moments(k, &layer(9, n, k).1[..100 * k]));
    // Outputs of other sizes.
    w.values.chunks_mut(k).enumerate().for_each(|(c, row)| row.iter_mut().for_each(|v| *v *= 1.0 + c as f32 / 4.0));
    let grid = |share| Grid { bits: 8, block: None, range: WeightRange::Share(share), sums: None };
    let shares = [0.9, 0.6, 0.3, 0.1];
    let grids = shares.map(grid);
    let swept = round_each(&w, (&h, Some(&other)), &grids, Rounding::Gptq);
    let mut last = 0.0;
    for ((share, grid), swept) in shares.iter().zip(&grids).zip(swept) {
        let (values, scales) = nearest(&w, grid);
        assert!(scales.iter().all(|s| *s == scales[0]));
        assert_eq!(values.iter().filter(|v| **v != 0).count(), (share * (n * k) as f64).round() as usize);
        assert_eq!(swept, round(&w, (&h, Some(&other)), grid, None, Rounding::Gptq));
        let rounded = round(&w, (&h, None), grid, None, Rounding::Nearest);
        assert!(swept.error < 0.6 * rounded.error && swept.error > last, "{share}: {} of {}", swept.error, rounded.error);
        let now = apply(&decoded(&swept, n, k, k), &swept.bias_shift, &rows[..100 * k]);
        let error = relative_error(n, &apply(&w, &vec![0.0; n], &rows[..100 * k]), &now);
        let check = swept.check_error.expect("rows that judge");
        assert!((check - error).abs() < 1e-6 * error, "{share}: {check} {error}");
        last = swept.error;
    }
    // The largest weight is not clipped, whatever the share; nothing but zeros has any scale.
    w.values[7] = 400.0 * w.values.iter().fold(0f32, |a, b| a.max(b.abs()));
    let (values, scales) = nearest(&w, &grid(0.9));
    assert!(values[7] == 127 && (scales[0] * 127.0 / w.values[7] - 1.0).abs() < 1e-6);
    assert_eq!(nearest(&Matrix { n: 2, k: 4, values: vec![0.0; 8] }, &grid(0.5)), (vec![0; 8], vec![1.0; 2]));
    assert_eq!(nearest(&Matrix { n: 1, k: 3, values: vec![4.0, -1.0, 2.0] }, &grid(1.0)).0, [127, -32, 64]);
}

#[test]
fn zeros_of_a_mask_stay() {
    let (w, rows) = layer(4, 8, 48);
    let h = moments(48, &rows);
    let shape = Shape { group: 4, unit: 4, channels: 12, taps: 4, whole_channels: false };
    let pruned =
        super::super::prune(&w, &h, None, &shape, &[0.5], Mask::Obs, Repair::Refit, Balance::Equal, Damping::Fixed(1e-2))
            .remove(0);
    let grid = Grid { bits: 4, block: None, range: WeightRange::Mse, sums: None };
    let error = |how| {
        let rounded = round(&pruned.weights, (&h, None), &grid, Some((&shape, &pruned.kept)), how);
        let zero = |i: usize| pruned.weights.values[i] != 0.0 || rounded.values[i] == 0;
        assert!((0..8 * 48).all(zero));
        rounded.error
    };
    assert!(error(Rounding::Gptq) < 0.8 * error(Rounding::Nearest));
    let table = round_to_table(&pruned.weights, (&h, None), Some((&shape, &pruned.kept)), Rounding::Gptq);
    assert!((0..8 * 48).all(|i| pruned.weights.values[i] != 0.0 || table.values[i] == 0));
    assert!(table.error < error(Rounding::Gptq));
}

#[test]
fn an_output_without_weights_is_rounded() {
    let rows = layer(5, 1, 8).1;
    let w = Matrix { n: 2, k: 8, values: vec![0.0; 16] };
    let rounded = round(&w, (&moments(8, &rows), None), &GRIDS[0], None, Rounding::Gptq);
    assert_eq!((rounded.values, rounded.scales, rounded.error), (vec![0; 16], vec![1.0; 2], 0.0));
}
