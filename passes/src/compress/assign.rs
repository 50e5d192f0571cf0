//! Who goes into which group: members to groups of fixed sizes such that the sum of what each is worth where it is grows.

/// Rounds of swaps; each is a pass over all pairs.
const PASSES: usize = 8;

/// Members of each group, ascending. `worth[member][group]`, `room[group]` adds up to the members. Those choose first for whom the best group is
/// better than the next by most; then pairs change places as long as both together gain.
pub(super) fn assign(worth: &[Vec<f64>], room: &[usize]) -> Vec<Vec<u32>> {
    let mut place = by_regret(worth, room);
    (0..PASSES).any(|_| !swap(worth, &mut place));
    let members = |g: usize| (0..worth.len() as u32).filter(|&c| place[c as usize] == g).collect();
    (0..room.len()).map(members).collect()
}

/// The group of each member.
fn by_regret(worth: &[Vec<f64>], room: &[usize]) -> Vec<usize> {
    let (mut room, mut place) = (room.to_vec(), vec![0; worth.len()]);
    let mut waiting: Vec<usize> = (0..worth.len()).collect();
    while !waiting.is_empty() {
        let open: Vec<usize> = (0..room.len()).filter(|&g| room[g] > 0).collect();
        let mut ranked: Vec<(f64, usize, usize)> = waiting.iter().map(|&c| regret(&worth[c], &open, c)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        waiting.clear();
        for (_, group, c) in ranked {
            // A group that fills up changes what is best for the others: they rank again.
            if room[group] > 0 {
                (place[c], room[group]) = (group, room[group] - 1);
            } else {
                waiting.push(c);
            }
        }
    }
    place
}

/// By how much the best of the open groups is better than the next, the best, and the member.
fn regret(worth: &[f64], open: &[usize], member: usize) -> (f64, usize, usize) {
    let (mut best, mut second) = ((f64::NEG_INFINITY, open[0]), f64::NEG_INFINITY);
    for &g in open {
        if worth[g] > best.0 {
            (second, best) = (best.0, (worth[g], g));
        } else {
            second = second.max(worth[g]);
        }
    }
    (if open.len() > 1 { best.0 - second } else { 0.0 }, best.1, member)
}

/// Lets each pair change places that gains by it; has any?
fn swap(worth: &[Vec<f64>], place: &mut [usize]) -> bool {
    let mut any = false;
    for c in 0..place.len() {
        for d in c + 1..place.len() {
            let (here, there) = (place[c], place[d]);
            let (now, then) = (worth[c][here] + worth[d][there], worth[c][there] + worth[d][here]);
            // A gain of rounding alone could be undone for ever.
            if here != there && then - now > 1e-12 * now.abs() {
                place.swap(c, d);
                any = true;
            }
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    /// Best of all ways to put six members into groups of 2, 3 and 1.
    #[test]
    fn nearly_the_best_assignment_is_found() {
        let (mut found, mut best, mut first) = (0.0, 0.0, 0.0);
        for seed in 0..40 {
            let mut random = Random(seed);
            let worth: Vec<Vec<f64>> = (0..6).map(|_| (0..3).map(|_| random.uniform()).collect()).collect();
            let total = |place: &dyn Fn(usize) -> usize| (0..6).map(|c| worth[c][place(c)]).sum::<f64>();
            let groups = assign(&worth, &[2, 3, 1]);
            assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3, 1]);
            found += total(&|c| groups.iter().position(|g| g.contains(&(c as u32))).unwrap());
            first += total(&|c| [0, 0, 1, 1, 1, 2][c]);
            let codes = (0..729usize).map(|code| (0..6).map(|c| code / 3usize.pow(c) % 3).collect::<Vec<usize>>());
            let fits =
                |p: &Vec<usize>| [2, 3, 1].iter().enumerate().all(|(g, room)| p.iter().filter(|x| **x == g).count() == *room);
            best += codes.filter(fits).map(|p| total(&|c| p[c])).fold(f64::NEG_INFINITY, f64::max);
        }
        assert!(best - found < 0.03 * (best - first), "{first} {found} {best}");
    }
}
