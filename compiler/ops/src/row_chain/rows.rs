//! Which rows of every value a step of a chain computes.
//!
//! Value 0 is the operand, value `i + 1` the result of link `i`, the last one that of the chain. A step brings so many rows of the last value; counted
//! back from there, rows `start..end` of every other value are what windows on them reach over. A value that windows of more than one row read keeps
//! the last rows of a step for the next one. Rows in front of the first and behind the last one are padding.

/// A link's window over rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Rows that it spans.
    pub span: i64,
    /// Rows between windows of neighbouring results; at most `span`.
    pub step: i64,
    /// Rows of padding before the first row.
    pub before: i64,
}

/// Rows of the values of a chain.
pub struct Rows {
    /// Of each link.
    pub windows: Vec<Window>,
    /// Of each value, the operand first.
    pub heights: Vec<i64>,
}

impl Rows {
    /// Number of the last value.
    pub fn last(&self) -> usize {
        self.windows.len()
    }

    /// The first row of value `j` that rows of the result from `y` on need.
    pub fn start(&self, j: usize, y: i64) -> i64 {
        self.windows[j..].iter().rev().fold(y, |y, w| y * w.step - w.before)
    }

    /// The row behind the last one of value `j` that rows of the result up to `y` need.
    pub fn end(&self, j: usize, y: i64) -> i64 {
        self.windows[j..].iter().rev().fold(y, |y, w| (y - 1) * w.step - w.before + w.span)
    }

    /// Rows of value `j` that are new in a step of so many rows.
    pub fn fresh(&self, j: usize, rows: i64) -> i64 {
        self.windows[j..].iter().map(|w| w.step).product::<i64>() * rows
    }

    /// Rows of value `j` that a step needs again, after the one before it.
    pub fn kept(&self, j: usize) -> i64 {
        self.windows.get(j).map_or(0, |w| w.span - w.step)
    }

    /// Rows of value `j` that a first step needs, which are at least those of any other.
    pub fn held(&self, j: usize, rows: i64) -> i64 {
        self.end(j, rows) - self.start(j, 0)
    }

    /// Number of steps of so many rows, the last of which may be shorter.
    pub fn steps(&self, rows: i64) -> i64 {
        (self.heights[self.last()] + rows - 1) / rows
    }

    /// Steps of so many rows that a band has, but for the last one, and the number of bands, so that none of the threads has more than it must.
    pub fn bands(&self, rows: i64, threads: i64) -> (i64, i64) {
        let steps = self.steps(rows);
        let bands = |of_band: i64| (steps + of_band - 1) / of_band;
        let of_band = (1..=steps).rev().filter(|n| bands(*n) <= BANDS * threads);
        let of_band = of_band.min_by_key(|n| (self.time(rows, *n, threads), bands(*n))).unwrap_or(steps);
        (of_band, bands(of_band))
    }

    /// What the busiest thread has to do, in quarters of the time of a row of the result, when bands have so many steps: rows, those that a band has in common
    /// with its neighbours, and what a step takes by itself.
    fn time(&self, rows: i64, of_band: i64, threads: i64) -> i64 {
        let height = self.heights[self.last()];
        let bands = (self.steps(rows) + of_band - 1) / of_band;
        let band = (of_band * rows).min(height);
        let again = self.end(1, band) - self.start(1, 0) - self.fresh(1, band);
        let again = if bands > 1 { again * 4 / self.fresh(1, 1) } else { 0 };
        (bands + threads - 1) / threads * (4 * band + again + of_band)
    }

    /// Do all steps between the first and the last one need rows that are there, also where one of them begins anew? Then they are all alike.
    pub fn are_alike_between(&self, rows: i64) -> bool {
        let steps = self.steps(rows);
        let inside = |j: usize| self.start(j, rows) >= 0 && self.end(j, (steps - 1) * rows) <= self.heights[j];
        steps < 3 || (0..=self.last()).all(inside)
    }

    /// Bytes of the rows that are held between links; `row_bytes` of each value.
    pub fn bytes(&self, rows: i64, row_bytes: &[u64]) -> u64 {
        (1..self.last()).map(|j| self.held(j, rows) as u64 * row_bytes[j]).sum()
    }

    /// The rows of a step with which so many threads are done first, if what is held between links has room in so many bytes; `None` when not even one row
    /// has.
    pub fn choose(&self, row_bytes: &[u64], room: u64, threads: i64) -> Option<i64> {
        let fits = |rows: &i64| self.bytes(*rows, row_bytes) <= room && self.are_alike_between(*rows);
        let fitting = (1..=self.heights[self.last()].min(MOST_ROWS)).rev().filter(fits);
        fitting.min_by_key(|rows| self.time(*rows, self.bands(*rows, threads).0, threads))
    }
}

/// Bands for each thread, at most: one that is late leaves less to wait for.
const BANDS: i64 = 2;
/// Rows of a step beyond which nothing is gained.
const MOST_ROWS: i64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: Window = Window { span: 1, step: 1, before: 0 };

    fn block(step: i64, height: i64) -> Rows {
        let three = Window { span: 3, step, before: 1 };
        let out = (height - 1) / step + 1;
        Rows { windows: vec![POINT, three, POINT], heights: vec![height, height, out, out] }
    }

    #[test]
    fn rows_of_a_step_follow_those_of_the_one_before() {
        for rows in [block(1, 20), block(2, 21)] {
            for j in 0..=rows.last() {
                assert_eq!(rows.end(j, 8) - rows.end(j, 4), rows.fresh(j, 4));
            }
            assert_eq!(rows.end(1, 4) - rows.start(1, 4), rows.kept(1));
        }
    }

    #[test]
    fn first_steps_need_the_rows_around_them() {
        let rows = block(2, 21);
        assert_eq!((rows.start(1, 0), rows.end(1, 4)), (-1, 8));
        assert_eq!((rows.held(1, 4), rows.held(2, 4)), (9, 4));
        assert_eq!(rows.kept(1), 1);
    }

    #[test]
    fn threads_have_as_much_to_do_as_each_other() {
        let rows = block(1, 56);
        let (of_band, bands) = rows.bands(14, 2);
        assert_eq!((of_band, bands), (2, 2), "28 rows for each");
        assert_eq!(rows.bands(16, 1), (4, 1));
        let bytes = [1, 1, 1];
        assert_eq!(rows.choose(&bytes, 1000, 1), Some(16), "fewest steps");
        assert_eq!(rows.choose(&bytes, 1000, 2), Some(14));
        let few = rows.choose(&bytes, 20, 2).expect("some rows fit");
        let (of_band, bands) = rows.bands(few, 2);
        assert!(few < 14 && bands % 2 == 0 && of_band * few <= 32, "{few} rows, {of_band} steps, {bands} bands");
    }

    #[test]
    fn steps_between_are_refused_when_they_reach_over_the_end() {
        let deep = Window { span: 7, step: 1, before: 3 };
        let rows = Rows { windows: vec![deep, POINT], heights: vec![9, 9, 9] };
        assert!(!rows.are_alike_between(2), "rows 2 to 4 need row -1, rows 6 to 8 the tenth");
        assert!(rows.are_alike_between(5), "there is a first and a last step only");
    }
}
