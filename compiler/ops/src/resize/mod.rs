//! `resize`: interpolation between elements. Operands x, roi (starts and ends, for `tf_crop_and_resize`), scales (f32) or sizes (i64), one per `axes` or per
//! dimension, all constants (ONNX Resize-19; Upsample is its form with asymmetric coordinates).

mod at_run_time;
mod axis;
mod lower;
mod open;

use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::or_declared;
use crate::common::axes::{axis as one_axis, unknown};
use crate::common::elements::{Picker, f64s, for_coords, from_f64s, offset, strides};
use crate::common::sample::{data, f32s, ints};
use axis::{Axis, Method, scaled};

/// `resize`
pub(crate) static RESIZE: OpDef = OpDef {
    name: "resize",
    onnx: &[
        Import { domain: "", name: "Resize", opsets: (10, NEWEST), build: import },
        Import { domain: "", name: "Upsample", opsets: (7, 9), build: import },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::lower),
    tolerance: Tolerance::SUMS,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let x = Some(cx.input(0)?);
    let mut attrs = cx.attrs().clone();
    if cx.opset() < 11 {
        let scales = match cx.attrs().floats("scales").map(<[f32]>::to_vec) {
            Some(list) => Some(cx.constant(Tensor::from_vec(&[list.len() as u64], list))),
            None => Some(cx.input(1)?),
        };
        attrs.0.remove("scales");
        let attrs = attrs
            .with("coordinate_transformation_mode", Attr::Str("asymmetric".into()))
            .with("nearest_mode", Attr::Str("floor".into()));
        return node(cx, [x, None, scales, None], attrs);
    }
    // Opset 11 marks an absent operand by an empty tensor.
    let given = |cx: &dyn ImportCx, i: usize| {
        cx.opt_input(i).filter(|id| cx.graph().ty(*id).shape.first().and_then(Dim::as_const) != Some(0))
    };
    let inputs = [x, given(cx, 1), given(cx, 2), given(cx, 3)];
    node(cx, inputs, attrs)
}

fn node(cx: &mut dyn ImportCx, inputs: [Option<ValueId>; 4], attrs: Attrs) -> OpResult<Vec<ValueId>> {
    let (method, [_, rest @ ..]) = (Method::of(&attrs)?, inputs);
    or_declared(
        cx,
        |cx| cx.node("resize", &inputs, attrs.clone()),
        |b, to| {
            let policy = attrs.str("keep_aspect_ratio_policy").unwrap_or("stretch");
            at_run_time::resize(b, rest, attrs.ints("axes"), &method, policy, to)
        },
    )
}

/// What the operands say of each dimension of an x with these extents.
fn axes_of(
    attrs: &Attrs,
    input: &[u64],
    roi: Option<&Tensor>,
    scales: Option<&Tensor>,
    sizes: Option<Vec<u64>>,
) -> OpResult<Vec<Axis>> {
    let rank = input.len();
    let list: Vec<usize> = match attrs.ints("axes") {
        Some(given) => given.iter().map(|a| one_axis(*a, rank)).collect::<OpResult<_>>()?,
        None => (0..rank).collect(),
    };
    let mut axes: Vec<Axis> = input.iter().map(|n| Axis { input: *n, output: *n, scale: 1.0, region: (0.0, 1.0) }).collect();
    let count = |what: &str, n: usize, want: usize| {
        if n == want { Ok(()) } else { Err(OpError::new(format!("{what} has {n} elements, it should have {want}"))) }
    };
    if let Some(scales) = scales {
        let scales = f64s(scales)?;
        count("scales", scales.len(), list.len())?;
        for (d, s) in list.iter().zip(scales) {
            axes[*d] = Axis { output: scaled(input[*d], s)?, scale: s, ..axes[*d] };
        }
    } else if let Some(sizes) = sizes {
        count("sizes", sizes.len(), list.len())?;
        if list.iter().any(|d| input[*d] == 0) {
            return Err(OpError::new("an empty dimension cannot be resized"));
        }
        let factor = |(d, n): (&usize, &u64)| *n as f64 / input[*d] as f64;
        let factors = list.iter().zip(&sizes).map(factor);
        let common = match attrs.str("keep_aspect_ratio_policy").unwrap_or("stretch") {
            "not_larger" => Some(factors.fold(f64::INFINITY, f64::min)),
            "not_smaller" => Some(factors.fold(0.0, f64::max)),
            _ => None,
        };
        for (d, n) in list.iter().zip(&sizes) {
            let output = common.map_or(*n, |s| (s * input[*d] as f64).round_ties_even() as u64);
            let scale = common.unwrap_or(*n as f64 / input[*d] as f64);
            axes[*d] = Axis { output, scale, ..axes[*d] };
        }
    } else {
        return Err(OpError::new("neither scales nor sizes are given"));
    }
    if let Some(roi) = roi.filter(|_| attrs.str("coordinate_transformation_mode") == Some("tf_crop_and_resize")) {
        let roi = f64s(roi)?;
        count("roi", roi.len(), 2 * list.len())?;
        for (i, d) in list.iter().enumerate() {
            axes[*d].region = (roi[i], roi[i + list.len()]);
        }
    }
    Ok(axes)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    Method::of(cx.attrs)?;
    let given = |i: usize, what: &str| match (cx.opt(i), cx.constant(i)) {
        (Some(_), None) => Err(unknown(what)),
        (_, constant) => Ok(constant),
    };
    let roi = given(1, "roi")?;
    let scales = given(2, "scales")?;
    let sizes = match cx.opt(3) {
        Some(_) => {
            let dims = cx.as_dims(3).ok_or_else(|| unknown("sizes"))?;
            Some(dims.iter().map(Dim::as_const).collect::<Option<Vec<u64>>>().ok_or_else(|| unknown("sizes"))?)
        }
        None => None,
    };
    if let Some(shape) = x.const_shape() {
        let axes = axes_of(cx.attrs, &shape, roi, scales, sizes)?;
        return Ok(vec![TensorType::fixed(x.dtype, &axes.iter().map(|a| a.output).collect::<Vec<_>>())]);
    }
    // With open dimensions: whole factors of them can be expressed.
    let scales = scales.ok_or_else(|| unknown("the shape of x"))?;
    let scales = f64s(scales)?;
    if scales.len() != x.rank() || cx.attrs.ints("axes").is_some() {
        return Err(unknown("the shape of x"));
    }
    let dim = |(d, s): (&Dim, &f64)| match d.as_const() {
        Some(n) => scaled(n, *s).map(Dim::Const),
        None if s.fract() == 0.0 && *s >= 1.0 && *s < 1e6 => Ok(d.mul(&Dim::Const(*s as u64))),
        None => Err(unknown("a scaled dimension")),
    };
    let shape = x.shape.iter().zip(&scales).map(dim).collect::<OpResult<Vec<Dim>>>()?;
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Extents of the result that `sizes` asks for.
fn sizes_of(tensor: Option<&Tensor>) -> Option<Vec<u64>> {
    Some(tensor?.to_i64s()?.into_iter().map(|n| n.max(0) as u64).collect())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let method = Method::of(cx.attrs)?;
    let axes = axes_of(cx.attrs, x.shape(), cx.opt(1), cx.opt(2), sizes_of(cx.opt(3)))?;
    let taps: Vec<_> = axes.iter().map(|a| method.taps(a)).collect();
    let dense = strides(x.shape());
    let outside = |at: &[usize]| at.iter().zip(&taps).any(|(i, t)| t[*i].outside);
    if method.copies() && !taps.iter().flatten().any(|t| t.outside) {
        let mut out = Picker::new(x.dtype());
        for_coords(&shape, |at| {
            let from: Vec<usize> = at.iter().zip(&taps).map(|(i, t)| t[*i].list[0].0).collect();
            out.pick(x, offset(&from, &dense));
        });
        return Ok(vec![out.finish(&shape)]);
    }
    let values = f64s(x)?;
    let mut out = Vec::new();
    for_coords(&shape, |at| {
        if outside(at) {
            out.push(f64::from(method.extrapolation));
            return;
        }
        // Every combination of the dimensions' taps.
        let mut sum = vec![(0usize, 1f64)];
        for (d, i) in at.iter().enumerate() {
            let taps = &taps[d][*i].list;
            let step = dense[d];
            sum = sum.iter().flat_map(|(o, w)| taps.iter().map(move |(j, v)| (o + j * step, w * v))).collect();
        }
        out.push(sum.iter().map(|(o, w)| values[*o] * w).sum());
    });
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

fn samples() -> Vec<Sample> {
    let text = |pairs: &[(&str, &str)]| pairs.iter().fold(Attrs::default(), |a, (k, v)| a.with(k, Attr::Str((*v).to_string())));
    let scale = |list: &[f32]| Some(SampleInput::Const(Tensor::from_vec(&[list.len() as u64], list.to_vec())));
    let scales =
        |attrs: Attrs, shape: &[u64], list: &[f32]| Sample { attrs, inputs: vec![f32s(shape), None, scale(list)], n_outputs: 1 };
    let sizes = |attrs: Attrs, x: Option<SampleInput>, list: &[i64]| Sample {
        attrs,
        inputs: vec![x, None, None, ints(list)],
        n_outputs: 1,
    };
    let image: &[u64] = &[1, 19, 4, 5];
    vec![
        scales(text(&[("mode", "nearest")]), image, &[1.0, 1.0, 2.0, 2.0]),
        scales(
            text(&[("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")]),
            image,
            &[1.0, 1.0, 3.0, 1.5],
        ),
        scales(text(&[("mode", "linear")]), image, &[1.0, 1.0, 2.0, 0.6]),
        scales(text(&[("mode", "linear"), ("coordinate_transformation_mode", "align_corners")]), image, &[1.0, 1.0, 2.0, 3.0]),
        scales(text(&[("mode", "cubic")]), &[1, 1, 4, 6], &[1.0, 1.0, 1.5, 0.8]),
        scales(
            text(&[("mode", "linear"), ("coordinate_transformation_mode", "pytorch_half_pixel")]),
            &[2, 3, 7],
            &[1.0, 1.0, 0.3],
        ),
        sizes(text(&[("mode", "linear")]).with("antialias", Attr::Int(1)), f32s(&[1, 2, 9, 8]), &[1, 2, 3, 4]),
        sizes(text(&[("mode", "cubic")]).with("exclude_outside", Attr::Int(1)), f32s(&[1, 1, 5, 4]), &[1, 1, 7, 3]),
        sizes(text(&[("mode", "nearest"), ("nearest_mode", "ceil")]), data(DType::I64, &[2, 5]), &[4, 3]),
        sizes(text(&[("mode", "nearest")]).with("axes", Attr::Ints(vec![-1])), data(DType::U8, &[2, 5]), &[9]),
        Sample {
            attrs: text(&[("mode", "linear"), ("coordinate_transformation_mode", "tf_crop_and_resize")])
                .with("extrapolation_value", Attr::Float(9.0)),
            inputs: vec![f32s(&[1, 1, 4, 4]), scale(&[0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7]), None, ints(&[1, 1, 3, 3])],
            n_outputs: 1,
        },
    ]
}
