//! What pools share: inference and the walk over windows.

use onnxc_ir::op::{InferCx, OpError, OpResult};
use onnxc_ir::{Attrs, Dim, TensorType};

use crate::common::elements::{for_coords, offset, strides};
use crate::common::window::{Window, kernel_shape, out_dims};

/// Type of a pool's result.
pub(crate) fn infer(cx: &InferCx) -> OpResult<TensorType> {
    let x = cx.input(0)?;
    if x.rank() < 3 {
        return Err(OpError::new(format!("{x} has no spatial dimensions")));
    }
    let kernel = kernel_shape(cx.attrs, None)?;
    let mut shape = x.shape[..2].to_vec();
    shape.extend(out_dims(cx.attrs, &kernel, &x.shape[2..])?);
    Ok(TensorType::new(x.dtype, shape))
}

/// Type of a pool over all spatial dimensions.
pub(crate) fn infer_global(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    crate::common::float::check(x.dtype, "global pooling")?;
    if x.rank() < 2 {
        return Err(OpError::new(format!("{x} has no channels")));
    }
    let mut shape = x.shape[..2].to_vec();
    shape.resize(x.rank(), Dim::Const(1));
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// The window of a pool over `x`.
pub(crate) fn window(attrs: &Attrs, x: &[u64]) -> OpResult<Window> {
    Window::new(attrs, &kernel_shape(attrs, None)?, &x[2..])
}

/// The window of a pool over everything.
pub(crate) fn global_window(x: &[u64]) -> Window {
    let n = x.len() - 2;
    let (kernel, input) = (x[2..].to_vec(), x[2..].to_vec());
    Window { kernel, strides: vec![1; n], dilations: vec![1; n], begin: vec![0; n], end: vec![0; n], input, out: vec![1; n] }
}

/// Calls `f(window coordinate, flat indices of the elements inside)` for every result of a pool, row-major.
pub(crate) fn windows(x: &[u64], win: &Window, mut f: impl FnMut(&[usize], &[usize])) {
    let sx = strides(x);
    let mut shape = x[..2].to_vec();
    shape.extend(&win.out);
    let mut inside = Vec::new();
    for_coords(&shape, |o| {
        inside.clear();
        for_coords(&win.kernel, |k| {
            if let Some(source) = win.sources(&o[2..], k) {
                inside.push(o[0] * sx[0] + o[1] * sx[1] + offset(&source, &sx[2..]));
            }
        });
        f(&o[2..], &inside);
    });
}

/// Elements by which an average divides: those inside, or also those of the padding (but never beyond it).
pub(crate) fn divisor(win: &Window, o: &[usize], inside: usize, pads: &(Vec<u64>, Vec<u64>), include_pad: bool) -> f64 {
    if !include_pad {
        return inside.max(1) as f64;
    }
    let along = |d: usize| {
        let limit = pads.0[d] + win.input[d] + pads.1[d];
        let at = |k: u64| o[d] as u64 * win.strides[d] + k * win.dilations[d];
        (0..win.kernel[d]).filter(|k| at(*k) < limit).count()
    };
    (0..win.kernel.len()).map(along).product::<usize>().max(1) as f64
}

/// Padding as it is declared, without what `ceil_mode` adds behind.
pub(crate) fn declared_pads(attrs: &Attrs, win: &Window) -> (Vec<u64>, Vec<u64>) {
    match (attrs.str("auto_pad").unwrap_or("NOTSET"), attrs.ints("pads")) {
        ("NOTSET" | "", Some(p)) if !p.is_empty() => {
            let p: Vec<u64> = p.iter().map(|p| *p as u64).collect();
            (p[..p.len() / 2].to_vec(), p[p.len() / 2..].to_vec())
        }
        ("NOTSET" | "", _) => (win.begin.clone(), vec![0; win.end.len()]),
        _ => (win.begin.clone(), win.end.clone()),
    }
}

/// Attribute cases that every pool is tested with: attributes and the shape of x.
pub(crate) fn sample_cases() -> Vec<(Attrs, Vec<u64>)> {
    use crate::common::sample::lists;
    use onnxc_ir::Attr;
    let int = |a: Attrs, k: &str| a.with(k, Attr::Int(1));
    let text = |a: Attrs, v: &str| a.with("auto_pad", Attr::Str(v.into()));
    let three: (&str, &[i64]) = ("kernel_shape", &[3, 3]);
    let two: (&str, &[i64]) = ("strides", &[2, 2]);
    let ones: (&str, &[i64]) = ("pads", &[1, 1, 1, 1]);
    vec![
        (lists(&[("kernel_shape", &[2, 2]), two]), vec![1, 19, 8, 6]),
        (lists(&[three, two, ones]), vec![2, 5, 9, 7]),
        (lists(&[three, ones]), vec![1, 33, 5, 5]),
        (int(lists(&[three, two]), "ceil_mode"), vec![1, 4, 8, 8]),
        (int(lists(&[three, two, ones]), "ceil_mode"), vec![1, 4, 8, 6]),
        (lists(&[("kernel_shape", &[2, 2]), ("dilations", &[2, 2])]), vec![1, 6, 7, 7]),
        (lists(&[("kernel_shape", &[3, 2]), ("dilations", &[2, 1]), ("pads", &[2, 1, 1, 0])]), vec![1, 3, 7, 7]),
        (text(lists(&[three, two]), "SAME_UPPER"), vec![1, 4, 7, 8]),
        (text(lists(&[("kernel_shape", &[2, 2])]), "SAME_LOWER"), vec![1, 4, 4, 5]),
        (lists(&[("kernel_shape", &[5]), ("strides", &[3]), ("pads", &[2, 2])]), vec![2, 3, 20]),
        (lists(&[("kernel_shape", &[2, 2, 2]), ("strides", &[1, 2, 1])]), vec![1, 2, 3, 4, 5]),
        (lists(&[("kernel_shape", &[7, 7])]), vec![1, 20, 7, 7]),
        (lists(&[("kernel_shape", &[9, 9]), ("pads", &[4, 4, 4, 4])]), vec![1, 3, 10, 9]),
        (lists(&[("kernel_shape", &[7, 8]), ("strides", &[2, 1]), ("pads", &[3, 2, 2, 4])]), vec![1, 5, 9, 11]),
    ]
}
