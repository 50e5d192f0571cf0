//! `transpose`: dimensions in another order. Attribute `perm` is always there: importers fill in the default (reversed).

use onnxc_ir::op::{Import, ImportCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, TensorType, ValueId};

use crate::common::sample::{data, f32s, sample};
use crate::common::views::eval_view;

/// `transpose`
pub(crate) static TRANSPOSE: OpDef = OpDef {
    name: "transpose",
    onnx: &[Import { domain: "", name: "Transpose", opsets: (1, NEWEST), build: import }],
    infer: |cx| {
        let x = cx.input(0)?;
        let perm = perm(cx.attrs, x.rank())?;
        Ok(vec![TensorType::new(x.dtype, perm.iter().map(|p| x.shape[*p].clone()).collect())])
    },
    infer_dims: None,
    eval: |cx| {
        let x = cx.input(0);
        let view = permuted(&View::contiguous(x.shape()), &perm(cx.attrs, x.shape().len())?);
        Ok(vec![eval_view(x, &view)])
    },
    lower: Lower::View(|attrs, view, _, _| perm(attrs, view.shape.len()).ok().map(|p| permuted(view, &p))),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |perm: &[i64]| Attrs::default().with("perm", Attr::Ints(perm.to_vec()));
        vec![
            sample(of(&[1, 0]), vec![f32s(&[3, 17])]),
            sample(of(&[0, 2, 3, 1]), vec![f32s(&[2, 3, 4, 5])]),
            sample(of(&[2, 0, 1]), vec![data(DType::I64, &[2, 1, 4])]),
            sample(of(&[1, 0]), vec![data(DType::U2, &[3, 7])]),
            sample(of(&[1, 0]), vec![data(DType::F4E2M1, &[3, 5])]),
            sample(of(&[1, 0]), vec![data(DType::U8, &[0, 4])]),
            sample(of(&[]), vec![f32s(&[])]),
        ]
    },
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, rank) = (cx.input(0)?, cx.ty(0)?.rank());
    let perm = cx.attrs().ints("perm").map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
    cx.node("transpose", &[Some(x)], Attrs::default().with("perm", Attr::Ints(perm)))
}

fn perm(attrs: &Attrs, rank: usize) -> OpResult<Vec<usize>> {
    let list = attrs.ints("perm").ok_or_else(|| OpError::new("attribute perm is missing"))?;
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..rank as i64) {
        return Err(OpError::new(format!("perm {list:?} is no permutation of {rank} dimensions")));
    }
    Ok(list.iter().map(|p| *p as usize).collect())
}

fn permuted(view: &View, perm: &[usize]) -> View {
    View {
        shape: perm.iter().map(|p| view.shape[*p]).collect(),
        open: Vec::new(),
        strides: perm.iter().map(|p| view.strides[*p]).collect(),
        offset: view.offset,
    }
    .with_open(perm.iter().map(|p| view.open(*p).cloned()).collect())
}
