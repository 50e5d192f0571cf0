//! How a node is computed, where something has chosen it: the attributes `algorithm` of convolutions and `schedule` of everything with products.
//!
//! A schedule is a list of words: `14x32` is the tile of a product, rows by columns; `rows` computes all panels of columns for each block of rows,
//! `panels` all blocks of rows for each panel, `panels=4` for each four panels; `block=56` is how many tiles Winograd's algorithm transforms at once;
//! `sparse` leaves out what all columns of a panel multiply by zero; `across=2` computes two neighbouring outputs of a convolution as filters of one;
//! `strassen` multiplies matrices of floats in seven products of halves.
//! What it does not name the lowering chooses, and so it does where the target has no such tile: a schedule is a permission, and never changes what
//! is computed; but a zero that is left out does not make NaN of an infinity or of NaN, and one that is put in does.

use std::fmt;
use std::str::FromStr;

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, Attrs, DType, Dim, TensorType};

use crate::common::strassen::is_narrow;
use crate::recurrent;
use crate::winograd::{self, ALGORITHMS, DIRECT};

/// The attribute.
pub const ATTR: &str = "schedule";

/// The word of products of halves.
pub(crate) const STRASSEN: &str = "strassen";

/// The order of the loops around a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Blocks of rows outside.
    Rows,
    /// So many panels of columns outside.
    Panels(u64),
}

/// What the attribute says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    /// Rows and columns of the tile.
    pub tile: Option<(u32, u32)>,
    /// The loops around it.
    pub order: Option<Order>,
    /// Tiles of Winograd's algorithm that are transformed at once.
    pub block: Option<u64>,
    /// Steps of k at which all weights of a panel are zero are left out.
    pub sparse: bool,
    /// Neighbouring outputs of a convolution that are computed as filters of one.
    pub across: Option<u64>,
    /// Seven products of halves instead of one.
    pub strassen: bool,
}

impl Schedule {
    /// The schedule of a node; inference has shown that the text is one.
    pub fn of(attrs: &Attrs) -> Schedule {
        attrs.str(ATTR).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The tile, if it is one of these.
    pub fn tile_among(&self, tiles: &[(u32, u32)]) -> Option<(u32, u32)> {
        self.tile.filter(|t| tiles.contains(t))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = self.tile.map(|(mr, nr)| format!("{mr}x{nr}"));
        let order = self.order.map(|o| match o {
            Order::Rows => "rows".to_string(),
            Order::Panels(1) => "panels".to_string(),
            Order::Panels(n) => format!("panels={n}"),
        });
        let block = self.block.map(|n| format!("block={n}"));
        let sparse = self.sparse.then(|| "sparse".to_string());
        let across = self.across.map(|p| format!("across={p}"));
        let strassen = self.strassen.then(|| STRASSEN.to_string());
        f.write_str(&[tile, order, block, sparse, across, strassen].into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Schedule, String> {
        let mut s = Schedule::default();
        let number = |text: &str| text.parse().ok().filter(|n| (1..=1 << 20).contains(n));
        for word in text.split_whitespace() {
            let known = match word.split_once(['=', 'x']) {
                None if word == "rows" => s.order.replace(Order::Rows).is_none(),
                None if word == "panels" => s.order.replace(Order::Panels(1)).is_none(),
                None if word == STRASSEN => !std::mem::replace(&mut s.strassen, true),
                None if word == "sparse" => !std::mem::replace(&mut s.sparse, true),
                Some(("panels", n)) => number(n).is_some_and(|n| s.order.replace(Order::Panels(n)).is_none()),
                Some(("block", n)) => number(n).is_some_and(|n| s.block.replace(n).is_none()),
                Some(("across", p)) => number(p).is_some_and(|p| s.across.replace(p).is_none()),
                Some((mr, nr)) => number(mr).zip(number(nr)).is_some_and(|t| s.tile.replace((t.0 as u32, t.1 as u32)).is_none()),
                None => false,
            };
            if !known {
                return Err(format!(
                    "`{word}` in the schedule {text:?}: its words are MRxNR, rows, panels, panels=N, block=N, sparse, across=N, strassen, each kind once"
                ));
            }
        }
        Ok(s)
    }
}

/// Inference: the attribute is a schedule.
pub(crate) fn check(attrs: &Attrs) -> OpResult<()> {
    match attrs.str(ATTR).map(str::parse::<Schedule>) {
        Some(Err(e)) => Err(OpError::new(e)),
        _ => Ok(()),
    }
}

/// A way to compute a node: the values of both attributes, none where the lowering chooses. As text `winograd4 14x32`, the empty text for the lowering's
/// own choice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Choice {
    /// `direct`, or one of [`ALGORITHMS`].
    pub algorithm: Option<&'static str>,
    /// A [`Schedule`] as text.
    pub schedule: Option<String>,
}

impl Choice {
    /// An algorithm with a schedule of the lowering's own choice.
    pub fn algorithm(name: &'static str) -> Choice {
        Choice { algorithm: Some(name), schedule: None }
    }

    /// What a node has.
    pub fn of(attrs: &Attrs) -> Choice {
        let algorithm = attrs.str(winograd::ATTR).and_then(known);
        Choice { algorithm, schedule: attrs.str(ATTR).map(str::to_string) }
    }

    /// Does it multiply in halves?
    pub fn is_strassen(&self) -> bool {
        self.schedule.as_ref().is_some_and(|text| text.split_whitespace().any(|word| word == STRASSEN))
    }

    /// Gives a node this choice instead of what it has.
    pub fn apply(&self, attrs: &mut Attrs) {
        let values = [(winograd::ATTR, self.algorithm), (ATTR, self.schedule.as_deref())];
        for (name, value) in values {
            match value {
                Some(text) => drop(attrs.0.insert(name.to_string(), Attr::Str(text.to_string()))),
                None => drop(attrs.0.remove(name)),
            }
        }
    }
}

fn known(name: &str) -> Option<&'static str> {
    ALGORITHMS.iter().map(|a| a.0).chain([DIRECT]).find(|n| *n == name)
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.algorithm.into_iter().chain(self.schedule.as_deref()).collect();
        f.write_str(&words.join(" "))
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (algorithm, schedule) = match known(first) {
            Some(name) => (Some(name), rest),
            None => (None, text),
        };
        let schedule = schedule.parse::<Schedule>()?.to_string();
        Ok(Choice { algorithm, schedule: Some(schedule).filter(|s| !s.is_empty()) })
    }
}

/// Operators whose lowering obeys a schedule.
const SCHEDULED: &[&str] =
    &["conv", "conv_integer", "conv_transpose", "gemm", "matmul", "matmul_integer", "qlinear_conv", "qlinear_matmul"];

/// The operands of a node with products that have their weights.
pub fn weights(op: &str) -> &'static [usize] {
    match op {
        "qlinear_conv" | "qlinear_matmul" => &[3],
        op if recurrent::gates(op).is_some() => &recurrent::MATRICES,
        op if SCHEDULED.contains(&op) && op != "conv_transpose" => &[1],
        _ => &[],
    }
}

/// The ways to leave weights of zero out of a node: in each of the target's tiles.
pub fn sparse(op: &str, attrs: &Attrs, inputs: &[Option<TensorType>], target: &TargetDesc) -> Vec<Choice> {
    // Products of recurrent layers leave out zeros, and obey nothing else.
    let is_recurrent = recurrent::gates(op).is_some();
    let tiles = if is_recurrent { Some(target.f32_tiles.clone()) } else { tiles(op, attrs, inputs, target) };
    let Some(tiles) = tiles.filter(|_| !weights(op).is_empty()) else { return Vec::new() };
    let schedule = |tile: &(u32, u32)| Schedule { tile: Some(*tile), sparse: true, ..Schedule::default() };
    tiles.iter().map(|tile| Choice { algorithm: None, schedule: Some(schedule(tile).to_string()) }).collect()
}

/// Outputs that are worth a try as filters of one, for so many filters and lanes.
pub fn across(filters: u64, lanes: u32) -> impl Iterator<Item = Choice> {
    let schedule = |p: u64| Schedule { across: Some(p), ..Schedule::default() };
    let fits = move |p: &u64| filters.saturating_mul(*p) <= u64::from(lanes);
    [2, 4, 8].into_iter().filter(fits).map(move |p| Choice { algorithm: None, schedule: Some(schedule(p).to_string()) })
}

/// The ways to multiply matrices of floats in halves: in tiles of up to two vectors, the lowering's own first.
pub fn strassen(target: &TargetDesc) -> Vec<Choice> {
    let tiles = target.f32_tiles.iter().copied().filter(|tile| is_narrow(*tile, target)).map(Some);
    let schedule = |tile| Schedule { tile, strassen: true, ..Schedule::default() };
    let choice = |tile| Choice { algorithm: None, schedule: Some(schedule(tile).to_string()) };
    std::iter::once(None).chain(tiles).map(choice).collect()
}

/// The tiles of a node that obeys a schedule.
fn tiles(op: &str, attrs: &Attrs, inputs: &[Option<TensorType>], target: &TargetDesc) -> Option<Vec<(u32, u32)>> {
    let x = inputs.first()?.as_ref()?;
    let depthwise = attrs.int("group").is_some_and(|g| g > 1 && x.shape.get(1) == Some(&Dim::Const(g as u64)));
    let tiles = match x.dtype {
        DType::F32 => target.f32_tiles.clone(),
        // Which of them weights are for is known when these are.
        t if t.is_int() && t.bits() == 8 => {
            let short = target.short_tiles.iter().flat_map(|t| &t.1);
            let mut tiles: Vec<(u32, u32)> = Vec::new();
            let widened = target.word_tiles.iter().filter(|_| target.words_beat_bytes());
            for tile in target.i8_tiles.iter().chain(short).chain(widened) {
                if !tiles.contains(tile) {
                    tiles.push(*tile);
                }
            }
            tiles
        }
        DType::I16 => target.word_tiles.clone(),
        _ => return None,
    };
    (SCHEDULED.contains(&op) && !depthwise).then_some(tiles)
}

/// Panels that are computed together, in the schedules that are worth a try.
const PANELS: &[u64] = &[1, 4];
/// Tiles that Winograd's algorithm transforms at once, in those.
const BLOCKS: &[u64] = &[28, 112];

/// The ways to compute a node that are worth a try, what the lowering does by itself first; none where there is only that. `weights` says whether the
/// weights are constants, `bounded` whether rounding errors may grow by a stated bound. Several of them may come out as the same code.
pub fn candidates(
    op: &str,
    attrs: &Attrs,
    inputs: &[Option<TensorType>],
    (weights, bounded): (bool, bool),
    target: &TargetDesc,
) -> Vec<Choice> {
    let of_weights = self::weights(op).first().copied().unwrap_or(1);
    let (Some(Some(x)), Some(Some(w))) = (inputs.first(), inputs.get(of_weights)) else { return Vec::new() };
    let Some(tiles) = tiles(op, attrs, inputs, target) else { return Vec::new() };
    let plain = Choice { algorithm: None, schedule: None };
    let allowed = weights && (bounded || x.dtype.is_int());
    let algorithms: Vec<&str> = winograd::fitting(op, attrs, x, w).filter(|_| allowed).map(|a| a.0).collect();
    let direct = Choice { algorithm: (!algorithms.is_empty()).then_some(DIRECT), ..plain };
    let mut list = vec![direct.clone()];
    let mut add = |algorithm, schedule: Schedule| list.push(Choice { algorithm, schedule: Some(schedule.to_string()) });
    for tile in &tiles {
        for order in PANELS.iter().map(|n| Order::Panels(*n)).chain([Order::Rows]) {
            add(direct.algorithm, Schedule { tile: Some(*tile), order: Some(order), ..Schedule::default() });
        }
    }
    for name in &algorithms {
        tiles.iter().for_each(|tile| add(Some(name), Schedule { tile: Some(*tile), ..Schedule::default() }));
        BLOCKS.iter().for_each(|n| add(Some(name), Schedule { block: Some(*n), ..Schedule::default() }));
    }
    list.extend(algorithms.iter().copied().map(Choice::algorithm));
    if let (true, true, Some(filters)) = (op == "conv" && weights, bounded, w.shape.first().and_then(Dim::as_const)) {
        list.extend(across(filters, target.lanes));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for text in [
            "",
            "14x32",
            "rows",
            "14x32 panels",
            "6x64 panels=4 block=56",
            "sparse",
            "across=2",
            "14x32 rows sparse",
            "14x32 strassen",
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
            let tiled = format!("winograd4 {text}");
            assert_eq!(tiled.trim().parse::<Choice>().unwrap().to_string(), tiled.trim());
        }
        for wrong in [
            "14",
            "14x",
            "0x16",
            "columns",
            "panels=0",
            "rows rows",
            "sparse sparse",
            "14x32 28x16",
            "rows panels",
            "direct winograd2",
        ] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_choice_replaces_what_a_node_has() {
        let before = Attrs::default().with(winograd::ATTR, Attr::Str("winograd2".into())).with("group", Attr::Int(1));
        let mut attrs = before.clone();
        let choice: Choice = "direct 14x32 rows".parse().unwrap();
        choice.apply(&mut attrs);
        assert_eq!(Choice::of(&attrs), choice);
        assert_eq!(Schedule::of(&attrs), Schedule { tile: Some((14, 32)), order: Some(Order::Rows), ..Schedule::default() });
        Choice::of(&before).apply(&mut attrs);
        assert_eq!(attrs, before);
    }
}
