//! `label_encoder`: each element replaced by what a table has for it.
//!
//! Attributes: `keys` and `values`, vectors of one length, and `default`, one value for elements that are no key. A NaN among the keys is every NaN; of equal
//! keys the last one counts (ONNX LabelEncoder-4). Strings are deliberately absent: compiled code has none.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use super::DOMAIN;
use crate::common::elements::{Picker, from_scalars, not_numeric, scalars};
use crate::common::nest::{self, compute_type, select};
use crate::common::sample::{data_in, sample};

/// The record.
pub(crate) static LABEL_ENCODER: OpDef = OpDef {
    name: "label_encoder",
    onnx: &[Import { domain: DOMAIN, name: "LabelEncoder", opsets: (1, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs();
    let list = |what: &str| -> OpResult<Tensor> {
        if let Some(t) = attrs.tensor(&format!("{what}_tensor")).filter(|t| t.dtype() != DType::Str) {
            return Ok(t.clone());
        }
        if let Some(v) = attrs.ints(&format!("{what}_int64s")) {
            return Ok(Tensor::from_vec(&[v.len() as u64], v.to_vec()));
        }
        if let Some(v) = attrs.floats(&format!("{what}_floats")) {
            return Ok(Tensor::from_vec(&[v.len() as u64], v.to_vec()));
        }
        Err(OpError::new(format!("{what} that are strings are not supported")).help("encode strings outside of the model"))
    };
    let (keys, values) = (list("keys")?, list("values")?);
    let default = match (attrs.tensor("default_tensor"), values.dtype()) {
        (Some(t), _) => t.clone(),
        (None, DType::F32) => Tensor::from_vec(&[1], vec![attrs.float("default_float").unwrap_or(-0.0)]),
        (None, DType::I64) => Tensor::from_vec(&[1], vec![attrs.int("default_int64").unwrap_or(-1)]),
        (None, t) if t.is_float() => from_scalars(t, &[1], [Scalar::Float(-0.0)])?,
        (None, t) => from_scalars(t, &[1], [Scalar::Int(-1)])?,
    };
    let tables = Attrs::default()
        .with("keys", Attr::Tensor(keys))
        .with("values", Attr::Tensor(values))
        .with("default", Attr::Tensor(default));
    let x = cx.input(0)?;
    Ok(vec![cx.node1("label_encoder", &[x], tables)?])
}

/// Keys, values, default.
fn tables(attrs: &Attrs) -> OpResult<[&Tensor; 3]> {
    let get = |name: &str| attrs.tensor(name).ok_or_else(|| OpError::new(format!("attribute {name} is missing")));
    let all = [get("keys")?, get("values")?, get("default")?];
    if all[0].shape().len() != 1 || all[0].len() != all[1].len() || all[2].len() != 1 || all[1].dtype() != all[2].dtype() {
        return Err(OpError::new(format!(
            "{} keys, {} values of {} and {} defaults of {} make no table",
            all[0].len(),
            all[1].len(),
            all[1].dtype(),
            all[2].len(),
            all[2].dtype()
        )));
    }
    Ok(all)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, [keys, values, _]) = (cx.input(0)?, tables(cx.attrs)?);
    if keys.dtype() != x.dtype {
        return Err(OpError::new(format!("the keys are {}, x is {x}", keys.dtype())));
    }
    if !x.dtype.is_float() && !x.dtype.is_int() {
        return Err(not_numeric(x.dtype).help("keys are numbers"));
    }
    scalars(values)?;
    Ok(vec![TensorType::new(values.dtype(), x.shape.clone())])
}

fn same(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) => a == b || a.is_nan() && b.is_nan(),
        (Scalar::Int(a), Scalar::Int(b)) => a == b,
        _ => false,
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, [keys, values, default]) = (cx.input(0), tables(cx.attrs)?);
    let keys = scalars(keys)?;
    let mut out = Picker::new(values.dtype());
    for element in scalars(x)? {
        match keys.iter().rposition(|k| same(*k, element)) {
            Some(i) => out.pick(values, i),
            None => out.pick(default, 0),
        }
    }
    Ok(vec![out.finish(&cx.out_shape(0))])
}

/// Keys in rising order, without repetition, with the places of their values; and the place of the value of NaN.
fn sorted(keys: &[Scalar]) -> (Vec<(Scalar, usize)>, Option<usize>) {
    let nan = keys.iter().rposition(|k| matches!(k, Scalar::Float(x) if x.is_nan()));
    let mut all: Vec<(Scalar, usize)> = keys.iter().copied().zip(0..).filter(|(k, _)| !k.float().is_nan()).collect();
    let order = |a: Scalar, b: Scalar| match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => a.cmp(&b),
        // Zeros of both signs are one key.
        (a, b) => a.float().partial_cmp(&b.float()).unwrap_or(std::cmp::Ordering::Equal),
    };
    all.sort_by(|a, b| order(a.0, b.0).then(b.1.cmp(&a.1)));
    all.dedup_by(|b, a| same(a.0, b.0));
    (all, nan)
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y, [keys, values, default]) = (cx.input(0), cx.output(0), tables(cx.attrs)?);
    nest::require(x.dtype)?;
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (mut list, nan) = sorted(&scalars(keys)?);
    let found_any = !list.is_empty();
    // A power of two of entries makes the search a fixed number of halvings.
    let size = list.len().max(1).next_power_of_two();
    list.resize(size, list.last().copied().unwrap_or((Scalar::Int(0), 0)));
    let t = compute_type(x.dtype);
    let key_table = from_scalars(t, &[size as u64], list.iter().map(|(k, _)| *k))?;
    let mut value_table = Picker::new(y.dtype);
    for (_, i) in &list {
        if found_any { value_table.pick(values, *i) } else { value_table.pick(default, 0) }
    }
    value_table.pick(default, 0);
    value_table.pick(if nan.is_some() { values } else { default }, nan.unwrap_or(0));
    let value_table = value_table.finish(&[size as u64 + 2]);
    let (key_table, value_table) =
        (cx.const_buf(t, key_table.bytes().to_vec()), cx.const_buf(y.dtype, value_table.bytes().to_vec()));
    let order = y.view.strides.clone();
    cx.for_each(&y.view, &order, |cx, at| {
        let element = Expr::Var(cx.let_(nest::load(cx, &x, at)));
        let mut place = Expr::Int(0);
        let mut step = size as i64 / 2;
        while step > 0 {
            let next = Expr::Var(cx.let_(place.clone().add(Expr::Int(step))));
            let before = Expr::bin(BinOp::Le, nest::at(key_table, next.clone()), element.clone());
            place = Expr::Var(cx.let_(select(before, next, place)));
            step /= 2;
        }
        let found = Expr::bin(BinOp::Eq, nest::at(key_table, place.clone()), element.clone());
        place = select(found, place, Expr::Int(size as i64));
        if t.is_float() {
            place = select(Expr::un(UnOp::IsNan, element), Expr::Int(size as i64 + 1), place);
        }
        let place = Expr::Var(cx.let_(place));
        cx.store(&y, at, nest::at(value_table, place));
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let case = |keys: Tensor, values: Tensor, shape: &[u64], high: f64| {
        let default = Tensor::zeros(values.dtype(), &[1]).unwrap_or_else(|| values.clone());
        let x = data_in(keys.dtype(), shape, 0.0, high);
        let attrs = Attrs::default().with("keys", Attr::Tensor(keys));
        sample(attrs.with("values", Attr::Tensor(values)).with("default", Attr::Tensor(default)), vec![x])
    };
    let floats = vec![2.0f32, f32::NAN, 0.0, -0.0, 1.0, 2.0];
    vec![
        case(
            Tensor::from_vec(&[5], vec![3i64, 1, 4, 1, 5]),
            Tensor::from_vec(&[5], vec![1.5f32, 2.5, 3.5, 4.5, 5.5]),
            &[3, 17],
            7.0,
        ),
        case(Tensor::from_vec(&[6], floats), Tensor::from_vec(&[6], vec![9i64, 8, 7, 6, 5, 4]), &[33], 2.0),
        case(Tensor::from_vec(&[1], vec![2i32]), Tensor::from_vec(&[1], vec![-7i16]), &[2, 3, 5], 3.0),
        case(Tensor::from_vec(&[0], Vec::<i64>::new()), Tensor::from_vec(&[0], Vec::<i64>::new()), &[4], 3.0),
        case(Tensor::from_vec(&[3], vec![1.0f64, 0.0, 2.0]), Tensor::from_vec(&[3], vec![1.0f64, 2.0, 3.0]), &[], 2.0),
        case(Tensor::from_vec(&[2], vec![1u8, 0]), Tensor::from_vec(&[2], vec![1u8, 2]), &[0, 3], 2.0),
    ]
}
