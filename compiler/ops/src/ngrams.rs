//! `ngrams`: how often each of some sequences of integers appears in each row, with equal gaps between its elements.
//!
//! Operand: integers `[C]` or `[N, C]`. Attributes: `pool`, the sequences one after the other; `sizes`, how many there are of each length from 1 on; `columns`, the
//! place of each in the result; `width`, the places of a row; `first`, the shortest length that counts; `gaps`, how many elements may lie between two
//! neighbours; `weights` of the places; `mode` (count, weight, product). Result f32 `[width]` or `[N, width]`. Meaning of ONNX TfIdfVectorizer-9.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::from_f64s;
use crate::common::nest::{self, ExprExt, select};
use crate::common::sample::{data_in, sample};

/// The record.
pub(crate) static NGRAMS: OpDef = OpDef {
    name: "ngrams",
    onnx: &[Import { domain: "", name: "TfIdfVectorizer", opsets: (9, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Longest sequence: each element of one is a load in the innermost loop.
const LONGEST: usize = 64;

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, attrs) = (cx.input(0)?, cx.attrs().clone());
    if attrs.get("pool_strings").is_some() || !cx.ty(0)?.dtype.is_int() {
        return Err(OpError::new("sequences of strings are not supported").help("encode strings outside of the model"));
    }
    let get = |name: &str| attrs.ints(name).ok_or_else(|| OpError::new(format!("attribute {name} is missing")));
    let number = |name: &str| attrs.int(name).ok_or_else(|| OpError::new(format!("attribute {name} is missing")));
    let (pool, starts, columns) = (get("pool_int64s")?, get("ngram_counts")?, get("ngram_indexes")?);
    let (shortest, longest, gaps) = (number("min_gram_length")?, number("max_gram_length")?, number("max_skip_count")?);
    let sizes = starts.iter().enumerate().map(|(i, from)| {
        let to = starts.get(i + 1).copied().unwrap_or(pool.len() as i64);
        to.saturating_sub(*from) / (i as i64 + 1)
    });
    let used = sizes.take(usize::try_from(longest).unwrap_or(0));
    let mode = match attrs.str("mode") {
        Some("TF") => "count",
        Some("IDF") => "weight",
        Some("TFIDF") => "product",
        other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("TF, IDF or TFIDF")),
    };
    let own = Attrs::default()
        .with("sizes", Attr::Ints(used.collect()))
        .with("pool", Attr::Ints(pool.to_vec()))
        .with("columns", Attr::Ints(columns.to_vec()))
        .with("width", Attr::Int(columns.iter().max().map_or(0, |m| m.saturating_add(1))))
        .with("first", Attr::Int(shortest))
        .with("gaps", Attr::Int(gaps))
        .with("mode", Attr::Str(mode.to_string()))
        .with("weights", Attr::Floats(attrs.floats("weights").unwrap_or(&[]).to_vec()));
    Ok(vec![cx.node1("ngrams", &[x], own)?])
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Count,
    Weight,
    Product,
}

/// Sequences of one length.
struct Group<'a> {
    length: usize,
    /// Their elements, and their places in the result.
    pool: &'a [i64],
    columns: &'a [i64],
}

struct Form<'a> {
    groups: Vec<Group<'a>>,
    width: u64,
    gaps: u64,
    mode: Mode,
    weights: Vec<f32>,
}

impl Form<'_> {
    fn of(attrs: &Attrs) -> OpResult<Form<'_>> {
        let get = |name: &str| attrs.ints(name).ok_or_else(|| OpError::new(format!("attribute {name} is missing")));
        let natural = |name: &str, high: u64| {
            let n = attrs.int(name).and_then(|n| u64::try_from(n).ok()).filter(|n| *n <= high);
            n.ok_or_else(|| OpError::new(format!("attribute {name} is missing, negative or too large")))
        };
        let (width, gaps, first) = (natural("width", 1 << 31)?, natural("gaps", 1 << 31)?, natural("first", 1 << 31)?);
        let (sizes, mut pool, mut columns) = (get("sizes")?, get("pool")?, get("columns")?);
        let uneven = || OpError::new("the sequences do not fill the pool, or have no place in the result");
        let mut groups = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            let size = usize::try_from(*size).map_err(|_| uneven())?;
            let elements = size.checked_mul(i + 1).filter(|n| *n <= pool.len() && size <= columns.len()).ok_or_else(uneven)?;
            let (here, there) = (pool.split_at(elements), columns.split_at(size));
            (pool, columns) = (here.1, there.1);
            if i as u64 + 1 >= first && size > 0 {
                groups.push(Group { length: i + 1, pool: here.0, columns: there.0 });
            }
        }
        if groups.iter().any(|g| g.columns.iter().any(|c| !(0..width as i64).contains(c))) {
            return Err(uneven());
        }
        if let Some(long) = groups.iter().find(|g| g.length > LONGEST) {
            return Err(OpError::new(format!("sequences of {} elements are not supported", long.length)));
        }
        let mode = match attrs.str("mode").unwrap_or("count") {
            "count" => Mode::Count,
            "weight" => Mode::Weight,
            "product" => Mode::Product,
            other => return Err(OpError::new(format!("mode {other:?} is unknown"))),
        };
        let mut weights = attrs.floats("weights").unwrap_or(&[]).to_vec();
        if weights.is_empty() || mode == Mode::Count {
            weights = vec![1.0; width as usize];
        }
        if weights.len() < width as usize {
            return Err(OpError::new(format!("{} weights for {width} places", weights.len())));
        }
        Ok(Form { groups, width, gaps, mode, weights })
    }
}

impl Group<'_> {
    /// Distances of neighbours that count in a row of `n`: one for single elements.
    fn distances(&self, gaps: u64, n: u64) -> std::ops::RangeInclusive<u64> {
        let apart = self.length as u64 - 1;
        1..=n.saturating_sub(1).checked_div(apart).map_or(1, |most| most.min(gaps + 1))
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    if !matches!(x.dtype, DType::I32 | DType::I64) || !(1..=2).contains(&x.rank()) {
        return Err(OpError::new(format!("x is {x}")).help("sequences are i32 or i64, [C] or [N, C]"));
    }
    if x.shape[x.rank() - 1].as_const().is_none_or(|n| n > 1 << 31) {
        return Err(OpError::new(format!("the length of rows of {x} is not known")).help("fix it with --dim or --shape"));
    }
    let mut shape = x.shape.clone();
    let last = shape.len() - 1;
    shape[last] = Dim::Const(Form::of(cx.attrs)?.width);
    Ok(vec![TensorType::new(DType::F32, shape)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, form, shape) = (cx.input(0), Form::of(cx.attrs)?, cx.out_shape(0));
    let values = x.to_i64s().unwrap_or_default();
    let length = x.shape().last().copied().unwrap_or(0) as usize;
    let rows = shape[..shape.len() - 1].iter().product::<u64>() as usize;
    let mut out = Vec::new();
    for row in (0..rows).map(|r| &values[r * length..][..length]) {
        let mut counts = vec![0u64; form.width as usize];
        for group in &form.groups {
            for (gram, column) in group.pool.chunks(group.length).zip(group.columns) {
                for distance in group.distances(form.gaps, length as u64).map(|d| d as usize) {
                    let starts = 0..length.saturating_sub(distance * (group.length - 1));
                    let found = starts.filter(|s| (0..group.length).all(|j| row[s + j * distance] == gram[j]));
                    counts[*column as usize] += found.count() as u64;
                }
            }
        }
        out.extend(counts.iter().zip(&form.weights).map(|(n, weight)| match form.mode {
            Mode::Count => *n as f64,
            Mode::Weight if *n == 0 => 0.0,
            Mode::Weight => f64::from(*weight),
            Mode::Product => f64::from(*n as f32 * weight),
        }));
    }
    Ok(vec![from_f64s(DType::F32, &shape, out)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y, form) = (cx.input(0), cx.output(0), Form::of(cx.attrs)?);
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let rank = x.view.shape.len();
    nest::fixed(cx, 0, [rank - 1])?;
    let rows = if rank == 2 { x.view.extent(0) } else { 1.into() };
    let weights = nest::f32_table(cx, &form.weights[..form.width as usize]);
    let counts = cx.scratch(DType::I64, form.width, true);
    let tables: Vec<(BufId, BufId)> = form.groups.iter().map(|g| (nest::table(cx, g.pool), nest::table(cx, g.columns))).collect();
    cx.for_in(LoopKind::Parallel, &rows, |cx, row| {
        cx.for_(LoopKind::Vector, form.width, |cx, j| cx.push(Stmt::Store(counts, j, Expr::Int(0))));
        let place = |last: Expr| if rank == 2 { vec![row.clone(), last] } else { vec![last] };
        for (group, tables) in form.groups.iter().zip(&tables) {
            count(cx, &x, &place, (group, form.gaps), *tables, counts);
        }
        cx.for_(LoopKind::Vector, form.width, |cx, j| {
            let n = nest::at(counts, j.clone()).cast_from(DType::I64, DType::F32);
            let weight = nest::at(weights, j.clone());
            let value = match form.mode {
                Mode::Count => n,
                Mode::Weight => select(Expr::bin(BinOp::Gt, n, Expr::f32(0.0)), weight, Expr::f32(0.0)),
                Mode::Product => n.mul(weight),
            };
            cx.store(&y, &place(j), value);
        });
    });
    Ok(())
}

/// Counts the sequences of one length in a row.
fn count(
    cx: &mut LowerCx,
    x: &Arg,
    place: &dyn Fn(Expr) -> Vec<Expr>,
    (group, gaps): (&Group, u64),
    (pool, columns): (BufId, BufId),
    counts: BufId,
) {
    let (length, row) = (group.length as i64, x.view.shape[x.view.shape.len() - 1]);
    let distances = group.distances(gaps, row);
    cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Int(group.columns.len() as i64), 1, |cx, gram| {
        let first = Expr::Var(cx.let_(gram.clone().times(length)));
        let elements: Vec<Expr> = (0..length)
            .map(|j| {
                let element = nest::at(pool, first.clone().add(Expr::Int(j)));
                Expr::Var(cx.let_(element))
            })
            .collect();
        let column = Expr::Var(cx.let_(nest::at(columns, gram)));
        let sum = cx.let_(Expr::Int(0));
        cx.for_range(LoopKind::Serial, Expr::Int(1), Expr::Int(*distances.end() as i64 + 1), 1, |cx, distance| {
            let end = Expr::Int(row as i64).minus(distance.clone().times(length - 1));
            cx.for_range(LoopKind::Vector, Expr::Int(0), end, 1, |cx, start| {
                let same = (0..).zip(&elements).map(|(j, element)| {
                    let at = start.clone().add(distance.clone().times(j));
                    let value = cx.load(x, &place(at)).cast_from(x.dtype, DType::I64);
                    Expr::bin(BinOp::Eq, value, element.clone())
                });
                if let Some(all) = same.reduce(|a, b| Expr::bin(BinOp::And, a, b)) {
                    let found = select(all, Expr::Int(1), Expr::Int(0));
                    cx.set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), found));
                }
            });
        });
        let value = nest::at(counts, column.clone()).add(Expr::Var(sum));
        cx.push(Stmt::Store(counts, column, value));
    });
}

fn samples() -> Vec<Sample> {
    let of = |mode: &str, first: i64, gaps: i64| {
        Attrs::default()
            .with("pool", Attr::Ints(vec![2, 3, 1, 4, 0, 1, 2, 2, 3, 0, 1, 2, 3]))
            .with("sizes", Attr::Ints(vec![4, 3, 1]))
            .with("columns", Attr::Ints(vec![0, 2, 1, 3, 5, 4, 6, 8]))
            .with("width", Attr::Int(9))
            .with("first", Attr::Int(first))
            .with("gaps", Attr::Int(gaps))
            .with("mode", Attr::Str(mode.to_string()))
            .with("weights", Attr::Floats((0..9).map(|i| i as f32 * 0.25 + 0.5).collect()))
    };
    let x = |dtype, shape: &[u64]| vec![data_in(dtype, shape, 0.0, 4.0)];
    let mut all = Vec::new();
    for mode in ["count", "weight", "product"] {
        all.push(sample(of(mode, 1, 0), x(DType::I64, &[37])));
        all.push(sample(of(mode, 2, 5), x(DType::I32, &[3, 19])));
    }
    all.push(sample(of("count", 1, 9), x(DType::I32, &[2, 1])));
    all.push(sample(of("count", 1, 1), x(DType::I64, &[2, 0])));
    all.push(sample(of("count", 1, 1), x(DType::I64, &[0, 4])));
    all
}
