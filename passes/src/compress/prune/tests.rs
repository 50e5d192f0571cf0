//! Masks and repair against brute force on small layers.

use super::super::testing::{Inputs, Random, apply, disturbed, moments, paired, relative_error};
use super::*;

const FREE: Shape = Shape { group: 4, unit: 1, channels: 6, taps: 4, whole_channels: false };

/// A layer of 10 outputs and 24 inputs, rows of the dense model, and of the compressed one.
fn layer(seed: u64) -> (Matrix, Vec<f32>, Vec<f32>) {
    let mut random = Random(seed);
    let inputs = Inputs::new(&mut random, 9, 24);
    let w = random.matrix(10, 24);
    let rows = inputs.rows(&mut random, 300);
    let fed = disturbed(&mut random, &rows);
    (w, rows, fed)
}

fn pruned(w: &Matrix, h: &Moments, shape: &Shape, density: f64, mask: Mask, repair: Repair) -> Pruned {
    prune(w, h, None, shape, &[density], mask, repair, Balance::Equal, Damping::Fixed(1e-6)).remove(0)
}

#[test]
fn errors_from_moments_are_those_of_the_rows() {
    let (w, rows, fed) = layer(1);
    let dense = apply(&w, &[0.0; 10], &rows);
    let (fit, check) = (paired(24, &fed, &rows), paired(24, &fed[..24 * 90], &rows[..24 * 90]));
    for repair in [Repair::None, Repair::Refit] {
        let p = &prune(&w, &fit, Some(&check), &FREE, &[0.5], Mask::Obs, repair, Balance::Equal, Damping::Fixed(1e-2))[0];
        let now = apply(&p.weights, &p.bias_shift, &fed);
        let error = relative_error(10, &dense, &now);
        assert!((p.error - error).abs() < 1e-9 * (1.0 + error), "{repair:?}: {} {error}", p.error);
        let error = relative_error(10, &dense[..10 * 90], &now[..10 * 90]);
        let measured = p.check_error.unwrap();
        assert!((measured - error).abs() < 1e-9 * (1.0 + error), "{repair:?}: {measured} {error}");
    }
}

/// Solves `a x = b` by Gauss and Jordan.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    for i in 0..b.len() {
        let pivot = (i..b.len()).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs())).unwrap();
        a.swap(i, pivot);
        b.swap(i, pivot);
        for r in (0..b.len()).filter(|&r| r != i) {
            let scale = a[r][i] / a[i][i];
            (0..b.len()).for_each(|c| a[r][c] -= scale * a[i][c]);
            b[r] -= scale * b[i];
        }
    }
    (0..b.len()).map(|i| b[i] / a[i][i]).collect()
}

#[test]
fn a_refit_solves_the_normal_equations_of_the_rows() {
    let (w, rows, fed) = layer(2);
    let h = paired(24, &fed, &rows);
    let p = prune(&w, &h, None, &FREE, &[0.4], Mask::Magnitude, Repair::Refit, Balance::Equal, Damping::Fixed(0.0)).remove(0);
    for c in 0..10 {
        let at = FREE.positions(&p.kept[c / 4]);
        // The last unknown is the bias.
        let input = |row: &[f32]| at.iter().map(|&p| f64::from(row[p])).chain([1.0]).collect::<Vec<f64>>();
        let (mut a, mut b) = (vec![vec![0.0; at.len() + 1]; at.len() + 1], vec![0.0; at.len() + 1]);
        for (fed, dense) in fed.chunks_exact(24).zip(rows.chunks_exact(24)) {
            let wanted: f64 = dense.iter().zip(&w.values[c * 24..]).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let x = input(fed);
            for i in 0..x.len() {
                (0..x.len()).for_each(|j| a[i][j] += x[i] * x[j]);
                b[i] += x[i] * wanted;
            }
        }
        let best = solve(a, b);
        let fitted = at.iter().map(|&i| f64::from(p.weights.values[c * 24 + i])).chain([f64::from(p.bias_shift[c])]);
        fitted.zip(&best).for_each(|(x, y)| assert!((x - y).abs() < 1e-4, "{x} {y}"));
    }
}

#[test]
fn damping_keeps_the_trained_weights_where_nothing_is_known() {
    let (w, _, _) = layer(3);
    let p = pruned(&w, &Moments::new(24, false), &FREE, 0.5, Mask::Magnitude, Repair::Refit);
    assert!(p.weights.values.iter().zip(&w.values).all(|(a, b)| *a == 0.0 || (a - b).abs() < 1e-6));
    assert_eq!(p.error, 0.0);
}

#[test]
fn nothing_pruned_and_nothing_changed_is_the_layer_itself() {
    let (w, rows, _) = layer(4);
    let p = pruned(&w, &moments(24, &rows), &FREE, 1.0, Mask::Obs, Repair::Refit);
    assert!(p.weights.values.iter().zip(&w.values).all(|(a, b)| (a - b).abs() < 1e-4));
    assert!(p.error < 1e-8, "{}", p.error);
}

/// Each kind of repair earns its place on inputs that are alike. A greedy choice has no guarantee for one layer, so sums of many are compared.
#[test]
fn refit_helps_and_masks_by_loss_help_again() {
    for (unit, whole_channels) in [(1, false), (4, false), (1, true)] {
        let shape = Shape { unit, whole_channels, ..FREE };
        let total = |mask, repair| {
            let error = |seed: u64| {
                let (w, rows, fed) = layer(seed);
                pruned(&w, &paired(24, &fed, &rows), &shape, 0.5, mask, repair).error
            };
            (10..20).map(error).sum::<f64>()
        };
        let none = total(Mask::Magnitude, Repair::None);
        let refit = total(Mask::Magnitude, Repair::Refit);
        let obs = total(Mask::Obs, Repair::Refit);
        assert!(none > 2.0 * refit && refit > 1.1 * obs, "{shape:?}: {none} {refit} {obs}");
    }
}

/// The sweep's weights are those of a refit on what it keeps, so that its losses add up to the error.
#[test]
fn losses_of_the_sweep_are_those_of_the_fits() {
    let (w, rows, _) = layer(5);
    for (unit, whole_channels) in [(1, false), (4, false), (1, true)] {
        let shape = Shape { unit, whole_channels, ..FREE };
        let layer = Layer { w: &w, shape: &shape, fit: Centred::new(&w, &moments(24, &rows)), check: None };
        let units = shape.units();
        let removals = layer.removals(&units, 1, Mask::Obs, Damping::Fixed(1e-9));
        for gone in 0..units.len() {
            let kept = removals.iter().map(|r| r.kept(units.len(), gone)).collect();
            let predicted: f64 = removals.iter().map(|r| r.loss[..gone].iter().sum::<f64>()).sum();
            let error = layer.refitted(kept, 1e-9).error;
            assert!((layer.fit.relative(predicted) - error).abs() < 1e-5 * (1.0 + error), "{gone}: {predicted} {error}");
        }
    }
}

/// The delayed updates are exact: a sweep much longer than [`removal`] lets wait agrees with one that inverts anew at each step.
#[test]
fn the_sweep_drops_what_brute_force_drops() {
    let mut random = Random(6);
    let inputs = Inputs::new(&mut random, 60, 150);
    let h = moments(150, &inputs.rows(&mut random, 400));
    let w = random.matrix(3, 150);
    let shape = Shape { group: 3, unit: 1, channels: 150, taps: 1, whole_channels: false };
    let layer = Layer { w: &w, shape: &shape, fit: Centred::new(&w, &h), check: None };
    let fast = &layer.removals(&shape.units(), 1, Mask::Obs, Damping::Fixed(1e-2))[0];
    let damping = absolute(layer.fit.second.as_ref(), 1e-2);
    let mut alive: Vec<usize> = (0..150).collect();
    let wanted = &layer.fit.wanted + faer::Scale(damping) * &layer.fit.weights;
    for (step, &dropped) in fast.order.iter().enumerate() {
        let factor = linalg::Cholesky::new(linalg::gather(layer.fit.second.as_ref(), &alive).as_ref(), damping);
        let mut weights = linalg::gather_rows(wanted.as_ref(), &alive, 0..3);
        factor.solve(weights.as_mut());
        let inverse = factor.inverse();
        let loss = |i: usize| (0..3).map(|c| weights[(i, c)].powi(2)).sum::<f64>() / inverse[(i, i)];
        let best = (0..alive.len()).min_by(|&a, &b| loss(a).total_cmp(&loss(b))).unwrap();
        assert_eq!(alive[best], dropped as usize, "step {step}");
        assert!((loss(best) - fast.loss[step]).abs() < 1e-6 * loss(best), "step {step}");
        alive.remove(best);
    }
}

#[test]
fn densities_are_nested_and_met() {
    let (w, rows, _) = layer(7);
    let h = moments(24, &rows);
    for (balance, mask) in [(Balance::Equal, Mask::Obs), (Balance::Free, Mask::Obs), (Balance::Free, Mask::Magnitude)] {
        let all = prune(&w, &h, None, &FREE, &[0.9, 0.5, 0.25], mask, Repair::Refit, balance, Damping::Fixed(1e-3));
        for (p, density) in all.iter().zip([0.9, 0.5, 0.25]) {
            let total: usize = p.kept.iter().map(Vec::len).sum();
            assert!((total as f64 / 72.0 - density).abs() < 0.03, "{balance:?} {density}: {total}");
            for (c, weights) in p.weights.values.chunks_exact(24).enumerate() {
                let at = FREE.positions(&p.kept[c / 4]);
                assert!(weights.iter().enumerate().all(|(p, w)| *w == 0.0 || at.contains(&p)));
            }
        }
        let pairs = all.windows(2).flat_map(|w| w[0].kept.iter().zip(&w[1].kept));
        assert!(pairs.into_iter().all(|(more, fewer)| fewer.iter().all(|u| more.contains(u))));
        assert!(all.windows(2).all(|w| w[0].error <= w[1].error));
    }
}

/// Groups whose outputs need few inputs leave units to the others.
#[test]
fn a_free_balance_is_better_where_groups_differ() {
    let (mut w, rows, _) = layer(8);
    w.values[..4 * 24].iter_mut().enumerate().filter(|(i, _)| i % 24 >= 6).for_each(|(_, w)| *w = 0.0);
    let h = moments(24, &rows);
    let error = |balance| prune(&w, &h, None, &FREE, &[0.5], Mask::Obs, Repair::Refit, balance, Damping::Fixed(1e-4))[0].error;
    assert!(error(Balance::Free) < 0.8 * error(Balance::Equal), "{} {}", error(Balance::Free), error(Balance::Equal));
}

/// With fewer rows than inputs, the least damping fits the rows and nothing else.
#[test]
fn held_out_rows_choose_the_damping() {
    let mut random = Random(9);
    let inputs = Inputs::new(&mut random, 12, 24);
    let w = random.matrix(10, 24);
    let h = moments(24, &inputs.rows(&mut random, 20));
    let check = moments(24, &inputs.rows(&mut random, 500));
    let at = |damping| prune(&w, &h, Some(&check), &FREE, &[0.5], Mask::Obs, Repair::Refit, Balance::Equal, damping).remove(0);
    let kept = at(Damping::CrossValidated);
    // Masks are those of 1e-2, so the fits on this grid are compared with the fit there.
    assert!(kept.check_error <= at(Damping::Fixed(1e-2)).check_error);
    assert!(kept.check_error.unwrap() < 0.9 * at(Damping::Fixed(1e-5)).check_error.unwrap());
    assert!(GRID.contains(&kept.damping));
}

#[test]
fn moments_that_are_not_numbers_are_no_panic() {
    let (w, mut rows, _) = layer(12);
    rows[5] = f32::NAN;
    let p = pruned(&w, &moments(24, &rows), &FREE, 0.5, Mask::Obs, Repair::Refit);
    assert_eq!(p.kept.iter().map(Vec::len).collect::<Vec<_>>(), [12, 12, 12]);
    assert_eq!(p.error, f64::INFINITY);
}

/// Of 8 channels, layer A multiplies the first four at 3 taps and layer B those from 2 to 5: both can do without the last two, and then each without some of its own.
#[test]
fn several_layers_lose_channels_that_none_needs_first() {
    let mut random = Random(13);
    let layer = |random: &mut Random, taps: usize, needs: std::ops::Range<usize>| {
        let mut w = random.matrix(10, 8 * taps);
        w.values.iter_mut().enumerate().filter(|(i, _)| !needs.contains(&(i % 8))).for_each(|(_, w)| *w = 0.0);
        let h = moments(8 * taps, &Inputs::new(random, 40, 8 * taps).rows(random, 600));
        (w, h)
    };
    let (a, b) = (layer(&mut random, 3, 0..4), layer(&mut random, 1, 2..6));
    let order = |layers: &[&(Matrix, Moments)]| together(&layers.iter().map(|l| (&l.0, &l.1)).collect::<Vec<_>>(), 8);
    let both = order(&[&a, &b]);
    assert_eq!(both.len(), 7);
    let first = |order: &[u32], n: usize| order[..n].iter().copied().collect::<std::collections::BTreeSet<u32>>();
    assert_eq!(first(&both, 2), [6, 7].into());
    assert_eq!(first(&order(&[&a]), 4), [4, 5, 6, 7].into());
    // A layer by itself loses what `prune` drops.
    let shape = Shape::structured(10, 8, 3);
    let alone =
        prune(&a.0, &a.1, None, &shape, &[0.25], Mask::Obs, Repair::Refit, Balance::Equal, Damping::Fixed(1e-2)).remove(0);
    let same = keep(&a.0, (&a.1, None), &shape, &alone.kept, Repair::Refit, Damping::Fixed(1e-2)).remove(0);
    assert_eq!(first(&order(&[&a]), 6), (0..8).filter(|c| !alone.kept[0].contains(c)).collect());
    assert_eq!(same, alone);
}
