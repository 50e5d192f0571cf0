//! A fit that never falls: what models lose, by how far they move the answers.
//!
//! Of a dozen models that were measured on a few hundred samples the best one was lucky. What models lose grows with the divergence of their answers, which few samples
//! tell better, so that a model which loses less than those that diverge less gets the mean of all that are out of order: the least squares fit among sequences that do not fall (pool
//! adjacent violators; Ayer et al., "An Empirical Distribution Function for Sampling with Incomplete Information", 1955).

/// The fit to values, each of the same weight.
pub fn fit(values: &[f64]) -> Vec<f64> {
    // Sums and numbers of values that have one mean.
    let mut pools: Vec<(f64, usize)> = Vec::new();
    let mean = |pool: &(f64, usize)| pool.0 / pool.1 as f64;
    for value in values {
        pools.push((*value, 1));
        while let [.., before, last] = pools[..] {
            if mean(&before) <= mean(&last) {
                break;
            }
            pools.truncate(pools.len() - 2);
            pools.push((before.0 + last.0, before.1 + last.1));
        }
    }
    pools.iter().flat_map(|pool| std::iter::repeat_n(mean(pool), pool.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_order_stays_and_the_rest_gets_its_mean() {
        assert_eq!(fit(&[0.0, 1.0, 1.0, 4.0]), [0.0, 1.0, 1.0, 4.0]);
        assert_eq!(fit(&[1.0, 4.0, 3.0, 2.0, 9.0]), [1.0, 3.0, 3.0, 3.0, 9.0]);
        assert_eq!(fit(&[3.0, 2.0, 1.0]), [2.0, 2.0, 2.0]);
        assert!(fit(&[]).is_empty());
    }
}
