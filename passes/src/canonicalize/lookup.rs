//! Rows of a table instead of products with rows of zeros and a one.
//!
//! What   `matmul(cast(x == [0, 1, ... n-1]), w)` = `gather(w', clip(x, -1, n))`, where w' is w with a row of zeros behind it for indices that are none;
//!        `op(gather(table, i), c)` = `gather(op(table, c), i)` for elementwise operators and constants that are alike for all rows.
//! When   canonicalize phase, before elementwise operators lose their names in maps; constants are folded behind it.
//! Why    an embedding that an exporter wrote out multiplies mostly by zero, and what follows it is the same for all equal indices.
//! Class  exact.
//! Misses `one_hot`, whose indices count from the end where they are negative; tables with more rows than are taken from them, which others may share.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::op::Lower;
use onnxc_ir::{Attr, Attrs, DType, Tensor};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots, apply };
    vec![
        rule("one-hot-product-to-gather", Roots::Named(&["matmul"]), one_hot_product),
        rule("elementwise-into-table", Roots::Where(|op| matches!(op.lower, Lower::Elementwise(_))), into_table),
    ]
}

fn one_hot_product(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if m.inputs.len() != 2 || !cx.find(m.id, "gather").is_empty() {
        return None;
    }
    let (hot, w) = (m.input(0)?, m.input(1)?);
    let weights = cx.constant(w).filter(|t| t.dtype() == DType::F32 && t.shape().len() == 2)?.clone();
    let (rows, columns) = (weights.shape()[0], weights.shape()[1]);
    let (x, classes) = indices(cx, hot)?;
    // Zero times what is not finite is no zero.
    let mut values = weights.to_vec::<f32>();
    if classes != rows || values.iter().any(|w| !w.is_finite()) {
        return None;
    }
    values.extend(std::iter::repeat_n(0.0, columns as usize));
    let table = cx.add_constant(Tensor::from_vec(&[rows + 1, columns], values));
    let i64s = |shape: &[u64], value: i64| Tensor::from_vec(shape, vec![value; shape.iter().product::<u64>() as usize]);
    let last = cx.ty(x).rank() as i64 - 1;
    let x = cx.node_of("cast", &[x], Attrs::default().with("to", Attr::Type(DType::I64)))?;
    let axes = cx.add_constant(i64s(&[1], last));
    let x = cx.node_of("squeeze", &[x, axes], Attrs::default())?;
    let (low, high) = (cx.add_constant(i64s(&[], -1)), cx.add_constant(i64s(&[], rows as i64)));
    let x = cx.node_of("clip", &[x, low, high], Attrs::default())?;
    cx.absorb(hot);
    cx.node_of("gather", &[table, x], Attrs::default().with("axis", Attr::Int(0)))
}

/// Integers `[.., 1]` of which a class has the comparisons with 0, 1 and so on as floats, and how many these are.
fn indices(cx: &RuleCx, hot: Id) -> Option<(Id, u64)> {
    let shape = cx.ty(hot).shape.clone();
    let (last, before) = shape.split_last()?;
    let compared = cx.find(hot, "cast").into_iter().filter(|_| cx.ty(hot).dtype == DType::F32).filter_map(|m| m.input(0));
    let equal = compared.flat_map(|id| cx.find(id, "equal")).next()?;
    let (a, b) = (equal.input(0)?, equal.input(1)?);
    for (x, list) in [(a, b), (b, a)] {
        let ty = cx.ty(x);
        let whole = matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::I64);
        let one = ty.shape.split_last().is_some_and(|(last, others)| last.as_const() == Some(1) && others == before);
        let Some(list) = cx.constant(list).filter(|_| whole && one) else { continue };
        let counts = list.to_i64s().is_some_and(|all| all.iter().enumerate().all(|(i, v)| *v == i as i64));
        let along = list.shape().last() == Some(&(list.len() as u64)) && last.as_const() == Some(list.len() as u64);
        if counts && along {
            return Some((x, list.len() as u64));
        }
    }
    None
}

/// A table and the rows that a class has of it: fewer than are taken.
fn rows_of(cx: &RuleCx, id: Id) -> Option<(Id, Id)> {
    let gather = cx.find(id, "gather").into_iter().next()?;
    let (table, index) = (gather.input(0)?, gather.input(1)?);
    let shape = cx.constant(table)?.shape().to_vec();
    let taken = cx.ty(index).const_shape()?.iter().product::<u64>();
    (gather.attrs.int("axis").unwrap_or(0) == 0 && shape.len() == 2 && shape[0] <= taken).then_some((table, index))
}

fn into_table(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if m.results != 1 || m.attrs.get("axis").is_some() || !cx.find(m.id, "gather").is_empty() {
        return None;
    }
    let operands: Vec<Id> = m.inputs.iter().copied().collect::<Option<_>>()?;
    let found: Vec<Option<(Id, Id)>> = operands.iter().map(|id| rows_of(cx, *id)).collect();
    let (table, index) = found.iter().flatten().next().copied()?;
    let shape = cx.ty(operands[found.iter().position(Option::is_some)?]).shape.clone();
    let alike = |(id, rows): (&Id, &Option<(Id, Id)>)| rows.is_none_or(|(_, i)| cx.same(i, index) && cx.ty(*id).shape == shape);
    if cx.ty(m.id).shape != shape || !operands.iter().zip(&found).all(alike) {
        return None;
    }
    let columns = cx.constant(table)?.shape()[1];
    let mut inputs = Vec::new();
    for (id, rows) in operands.iter().zip(&found) {
        inputs.push(match rows {
            Some((table, _)) => *table,
            None => {
                let row = row(cx.constant(*id)?, columns)?;
                cx.add_constant(row)
            }
        });
    }
    operands.iter().zip(&found).filter(|(_, rows)| rows.is_some()).for_each(|(id, _)| cx.absorb(*id));
    let table = cx.node_of(m.op.name, &inputs, m.attrs.clone())?;
    cx.node_of("gather", &[table, index], Attrs::default().with("axis", Attr::Int(0)))
}

/// A constant that is alike for all rows of so many columns, as a row or a scalar.
fn row(constant: &Tensor, columns: u64) -> Option<Tensor> {
    let count = constant.len() as u64;
    let along = constant.shape().last() == Some(&columns) && count == columns;
    let shape = if along { vec![columns] } else { Vec::new() };
    (along || count == 1).then(|| constant.reshaped(&shape)).flatten()
}
