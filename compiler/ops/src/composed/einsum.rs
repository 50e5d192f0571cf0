//! ONNX `Einsum`: operands are contracted from left to right, each pair by one stack of matrix products (or one multiplication of all pairs when
//! nothing is summed).

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;

/// ONNX `Einsum`.
pub(crate) const EINSUM: Import = Import { domain: "", name: "Einsum", opsets: (12, NEWEST), build };

/// A value whose dimensions have labels.
#[derive(Clone, Debug)]
struct Term {
    value: ValueId,
    labels: Vec<char>,
}

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let equation = cx.attrs().str("equation").ok_or_else(|| OpError::new("attribute equation is missing"))?.to_string();
    let inputs = (0..cx.inputs().len()).map(|i| cx.input(i)).collect::<OpResult<Vec<_>>>()?;
    let mut b = Build(cx);
    let (mut terms, result) = parse(&b, &equation, &inputs)?;
    terms.reverse();
    let mut left = terms.pop().ok_or_else(|| OpError::new("there are no operands"))?;
    left = diagonals(&mut b, left)?;
    while let Some(right) = terms.pop() {
        let right = diagonals(&mut b, right)?;
        let needed = |c: &char| result.contains(c) || terms.iter().any(|t| t.labels.contains(c));
        left = contract(&mut b, left, right, &needed)?;
    }
    left = sum_out(&mut b, left, &|c| result.contains(c))?;
    let perm: Option<Vec<usize>> = result.iter().map(|c| left.labels.iter().position(|l| l == c)).collect();
    let perm = perm.ok_or_else(|| OpError::new(format!("equation {equation:?}: the result has a label that no operand has")))?;
    Ok(vec![b.transpose(left.value, &perm)?])
}

/// Operands and the labels of the result. The dimensions of `...` get capital Greek letters, the last one alpha.
fn parse(b: &Build, equation: &str, inputs: &[ValueId]) -> OpResult<(Vec<Term>, Vec<char>)> {
    let wrong = |why: &str| OpError::new(format!("equation {equation:?}: {why}"));
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, result) = match text.split_once("->") {
        Some((l, r)) => (l.to_string(), Some(r.to_string())),
        None => (text, None),
    };
    let lists: Vec<&str> = operands.split(',').collect();
    if lists.len() != inputs.len() {
        return Err(wrong(&format!("names {} operands, {} are given", lists.len(), inputs.len())));
    }
    let ellipsis =
        |n: usize| (0..n).rev().map(|i| char::from_u32('\u{391}' as u32 + i as u32).unwrap_or('\u{391}')).collect::<Vec<_>>();
    let expand = |list: &str, dims: usize| -> OpResult<Vec<char>> {
        let (before, behind) = list.split_once("...").unwrap_or((list, ""));
        let named = before.chars().chain(behind.chars());
        if let Some(c) = named.clone().find(|c| !c.is_ascii_alphabetic()) {
            return Err(wrong(&format!("{c:?} is not a label")));
        }
        let middle = if list.contains("...") { ellipsis(dims.saturating_sub(named.count())) } else { Vec::new() };
        Ok(before.chars().chain(middle).chain(behind.chars()).collect())
    };
    let mut terms = Vec::new();
    let mut widest = 0;
    for (list, value) in lists.iter().zip(inputs) {
        let rank = b.ty(*value).rank();
        let labels = expand(list, rank)?;
        if labels.len() != rank || rank > 16 {
            return Err(wrong(&format!("{list:?} does not fit an operand of type {}", b.ty(*value))));
        }
        widest = widest.max(labels.iter().filter(|c| !c.is_ascii()).count());
        terms.push(Term { value: *value, labels });
    }
    let labels = match result {
        Some(list) => expand(&list, widest + list.chars().filter(|c| *c != '.').count())?,
        None => {
            // Without a result: the dimensions of `...`, then labels that occur once, in order of the alphabet.
            let all: Vec<char> = terms.iter().flat_map(|t| t.labels.iter().copied()).filter(char::is_ascii).collect();
            let mut once: Vec<char> = all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect();
            once.sort_unstable();
            ellipsis(widest).into_iter().chain(once).collect()
        }
    };
    if (1..labels.len()).any(|i| labels[..i].contains(&labels[i])) {
        return Err(wrong("the result names a label twice"));
    }
    Ok((terms, labels))
}

/// Labels that an operand has twice become their diagonal.
fn diagonals(b: &mut Build, mut t: Term) -> OpResult<Term> {
    while let Some(i) = (1..t.labels.len()).find(|i| t.labels[..*i].contains(&t.labels[*i])) {
        let label = t.labels[i];
        let first = t.labels.iter().position(|c| *c == label).expect("internal: found above");
        let mut perm: Vec<usize> = (0..t.labels.len()).filter(|d| *d != first && *d != i).collect();
        t.labels = perm.iter().map(|d| t.labels[*d]).chain([label]).collect();
        perm.extend([first, i]);
        let moved = b.transpose(t.value, &perm)?;
        let mut shape = b.shape(moved)?;
        let (n, m) = (shape.pop().unwrap_or(1), shape.pop().unwrap_or(1));
        if n != m {
            return Err(OpError::new(format!("label {label:?} stands for {m} and {n} elements of one operand")));
        }
        shape.push(n * n);
        let flat = b.reshape(moved, &shape)?;
        t.value = b.slice(flat, shape.len() as i64 - 1, (0, (n * n) as i64, n as i64 + 1))?;
    }
    Ok(t)
}

/// Sums over labels that nobody needs.
fn sum_out(b: &mut Build, t: Term, needed: &dyn Fn(&char) -> bool) -> OpResult<Term> {
    let axes: Vec<i64> = (0..t.labels.len()).filter(|i| !needed(&t.labels[*i])).map(|i| i as i64).collect();
    let value = b.sum(t.value, &axes)?;
    Ok(Term { value, labels: t.labels.into_iter().filter(|c| needed(c)).collect() })
}

/// The product of two operands, summed over the labels that nobody else needs.
fn contract(b: &mut Build, left: Term, right: Term, needed: &dyn Fn(&char) -> bool) -> OpResult<Term> {
    let (left, right) = (drop_ones(b, left, &right)?, right);
    let right = drop_ones(b, right, &left)?;
    let left = sum_out(b, left, &|c| needed(c) || right.labels.contains(c))?;
    let right = sum_out(b, right, &|c| needed(c) || left.labels.contains(c))?;
    let shared = |c: &&char| right.labels.contains(c);
    let batch: Vec<char> = left.labels.iter().filter(shared).filter(|c| needed(c)).copied().collect();
    let inner: Vec<char> = left.labels.iter().filter(shared).filter(|c| !needed(c)).copied().collect();
    let rows: Vec<char> = left.labels.iter().filter(|c| !shared(c)).copied().collect();
    let cols: Vec<char> = right.labels.iter().filter(|c| !left.labels.contains(c)).copied().collect();
    let a = arrange(b, &left, &[&batch, &rows, &inner])?;
    let c = arrange(b, &right, &[&batch, &inner, &cols])?;
    let extent = |b: &Build, t: &Term, of: &[char]| -> OpResult<Vec<u64>> {
        let shape = b.shape(t.value)?;
        Ok(of.iter().filter_map(|l| t.labels.iter().position(|c| c == l)).map(|d| shape[d]).collect())
    };
    let (stack, m) = (extent(b, &left, &batch)?, extent(b, &left, &rows)?);
    let (k, n) = (extent(b, &left, &inner)?, extent(b, &right, &cols)?);
    let flat = |parts: [&[u64]; 2]| -> Vec<u64> { stack.iter().copied().chain(parts.map(|p| p.iter().product())).collect() };
    let (a, c) = (b.reshape(a, &flat([&m, &k]))?, b.reshape(c, &flat([&k, &n]))?);
    let product = b.op(if inner.is_empty() { "mul" } else { "matmul" }, &[a, c])?;
    let shape: Vec<u64> = stack.iter().chain(&m).chain(&n).copied().collect();
    let value = b.reshape(product, &shape)?;
    Ok(Term { value, labels: batch.into_iter().chain(rows).chain(cols).collect() })
}

/// Dimensions of one element where the other operand has more are broadcast: they go.
fn drop_ones(b: &mut Build, t: Term, other: &Term) -> OpResult<Term> {
    let (mine, theirs) = (b.shape(t.value)?, b.shape(other.value)?);
    let gone = |i: usize| mine[i] == 1 && other.labels.iter().position(|c| *c == t.labels[i]).is_some_and(|d| theirs[d] != 1);
    let axes: Vec<i64> = (0..mine.len()).filter(|i| gone(*i)).map(|i| i as i64).collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let labels = (0..mine.len()).filter(|i| !gone(*i)).map(|i| t.labels[i]).collect();
    Ok(Term { value: b.squeeze(t.value, &axes)?, labels })
}

/// The operand with its dimensions in the order of `groups`.
fn arrange(b: &mut Build, t: &Term, groups: &[&[char]]) -> OpResult<ValueId> {
    let perm: Vec<usize> = groups.iter().flat_map(|g| g.iter()).filter_map(|c| t.labels.iter().position(|l| l == c)).collect();
    b.transpose(t.value, &perm)
}
