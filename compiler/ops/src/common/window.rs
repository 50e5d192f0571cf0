//! Sliding windows of convolutions and pools: attributes, automatic padding, extents of results.
//!
//! Sources: the ONNX operator documents (Conv-22, MaxPool-22, ConvTranspose-22); the rule that a window of `ceil_mode` must start inside the
//! input or its leading padding is theirs too.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attrs, Dim};

/// Strides, dilations and padding of a window over `kernel.len()` spatial dimensions, with the extents of the result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    /// Extents of the window.
    pub(crate) kernel: Vec<u64>,
    /// Elements between neighbouring windows.
    pub(crate) strides: Vec<u64>,
    /// Elements between neighbouring taps.
    pub(crate) dilations: Vec<u64>,
    /// Padding before the first element.
    pub(crate) begin: Vec<u64>,
    /// Padding behind the last element, as far as windows reach.
    pub(crate) end: Vec<u64>,
    /// Extents of the input.
    pub(crate) input: Vec<u64>,
    /// Extents of the result.
    pub(crate) out: Vec<u64>,
}

/// `kernel_shape` of a pool, or the extents of a convolution's weights checked against it.
pub(crate) fn kernel_shape(attrs: &Attrs, weights: Option<&[Dim]>) -> OpResult<Vec<u64>> {
    let given = attrs.ints("kernel_shape").filter(|k| !k.is_empty());
    let from_weights = weights.map(|w| w.iter().map(Dim::as_const).collect::<Option<Vec<u64>>>());
    let kernel: Vec<u64> = match (given, from_weights) {
        (_, Some(None)) => return Err(OpError::new("the spatial extents of the weights are unknown")),
        (None, None) => return Err(OpError::new("attribute kernel_shape is missing")),
        (None, Some(Some(w))) => w,
        (Some(k), w) => {
            let k: Vec<u64> = k.iter().map(|n| u64::try_from(*n).unwrap_or(0)).collect();
            if let Some(Some(w)) = w
                && w != k
            {
                return Err(OpError::new(format!("kernel_shape {k:?} differs from the weights' {w:?}")));
            }
            k
        }
    };
    if kernel.iter().any(|k| *k == 0 || *k > 1 << 31) {
        return Err(OpError::new(format!("kernel_shape {kernel:?} must be positive")));
    }
    Ok(kernel)
}

/// A list of `n` positive integers, all 1 by default.
pub(crate) fn positive(attrs: &Attrs, name: &str, n: usize) -> OpResult<Vec<u64>> {
    let Some(list) = attrs.ints(name).filter(|l| !l.is_empty()) else { return Ok(vec![1; n]) };
    if list.len() != n || list.iter().any(|s| *s < 1 || *s > 1 << 31) {
        return Err(OpError::new(format!("{name} {list:?} must be {n} positive integers")));
    }
    Ok(list.iter().map(|s| *s as u64).collect())
}

/// `pads` as (begin, end), zero by default.
pub(crate) fn explicit_pads(attrs: &Attrs, n: usize) -> OpResult<(Vec<i64>, Vec<i64>)> {
    let Some(list) = attrs.ints("pads").filter(|l| !l.is_empty()) else { return Ok((vec![0; n], vec![0; n])) };
    if list.len() != 2 * n || list.iter().any(|p| p.unsigned_abs() > 1 << 31) {
        return Err(OpError::new(format!("pads {list:?} must be {} integers", 2 * n)));
    }
    Ok((list[..n].to_vec(), list[n..].to_vec()))
}

/// Padding before and behind, for windows whose last start is at most `(out-1) * stride`.
fn same_pads(input: u64, out: u64, stride: u64, extent: u64, upper: bool) -> (u64, u64) {
    let total = (out.saturating_sub(1) * stride + extent).saturating_sub(input);
    let small = total / 2;
    if upper { (small, total - small) } else { (total - small, small) }
}

/// Extents of the result for possibly symbolic extents of the input.
pub(crate) fn out_dims(attrs: &Attrs, kernel: &[u64], input: &[Dim]) -> OpResult<Vec<Dim>> {
    let n = kernel.len();
    if input.len() != n {
        return Err(OpError::new(format!("{} spatial dimensions, but kernel_shape has {n}", input.len())));
    }
    let (strides, dilations) = (positive(attrs, "strides", n)?, positive(attrs, "dilations", n)?);
    let (begin, end) = explicit_pads(attrs, n)?;
    if begin.iter().chain(&end).any(|p| *p < 0) {
        return Err(OpError::new("negative pads are not supported").help("crop with Slice before the operator"));
    }
    let ceil = attrs.int("ceil_mode").unwrap_or(0) != 0;
    let auto = attrs.str("auto_pad").unwrap_or("NOTSET");
    let mut dims = Vec::with_capacity(n);
    for d in 0..n {
        let extent = (kernel[d] - 1) * dilations[d] + 1;
        let (x, stride) = (&input[d], Dim::Const(strides[d]));
        let pads = match auto {
            "SAME_UPPER" | "SAME_LOWER" => {
                dims.push(x.div_ceil(&stride));
                continue;
            }
            "VALID" => 0,
            "NOTSET" | "" => begin[d] + end[d],
            other => return Err(OpError::new(format!("auto_pad {other:?} is unknown"))),
        };
        if let Some(x) = x.as_const()
            && x + (pads as u64) < extent
        {
            let reason = format!("a window of {extent} does not fit {x} elements with {pads} of padding (spatial dimension {d})");
            return Err(OpError::new(reason));
        }
        let room = x.offset(pads - extent as i64);
        dims.push(match (ceil, x.as_const()) {
            (false, _) => room.div(&stride).offset(1),
            (true, None) => {
                let before = if auto == "VALID" { 0 } else { begin[d] };
                let all = room.div_ceil(&stride).offset(1);
                // Can a window begin in the padding at the end? Those that do are dropped.
                let behind = pads - before + strides[d] as i64 > extent as i64;
                if behind { all.min_of(&x.offset(before).div_ceil(&stride)) } else { all }
            }
            (true, Some(x)) => {
                let before = if auto == "VALID" { 0 } else { begin[d] as u64 };
                let out = (x + pads as u64 - extent).div_ceil(strides[d]) + 1;
                Dim::Const(if (out - 1) * strides[d] >= x + before { out - 1 } else { out })
            }
        });
    }
    Ok(dims)
}

impl Window {
    /// The window over an input of known extents.
    pub(crate) fn new(attrs: &Attrs, kernel: &[u64], input: &[u64]) -> OpResult<Window> {
        let n = kernel.len();
        let dims: Vec<Dim> = input.iter().map(|d| Dim::Const(*d)).collect();
        let out: Option<Vec<u64>> = out_dims(attrs, kernel, &dims)?.iter().map(Dim::as_const).collect();
        let out = out.ok_or_else(|| OpError::new("extents are unknown"))?;
        let (strides, dilations) = (positive(attrs, "strides", n)?, positive(attrs, "dilations", n)?);
        let (first, last) = explicit_pads(attrs, n)?;
        let (mut begin, mut end) = (Vec::new(), Vec::new());
        for d in 0..n {
            let extent = (kernel[d] - 1) * dilations[d] + 1;
            let (b, e) = match attrs.str("auto_pad").unwrap_or("NOTSET") {
                "SAME_UPPER" => same_pads(input[d], out[d], strides[d], extent, true),
                "SAME_LOWER" => same_pads(input[d], out[d], strides[d], extent, false),
                "VALID" => (0, 0),
                _ => (first[d] as u64, last[d] as u64),
            };
            // With ceil_mode the last window may reach beyond the padding.
            let reach = (out[d].saturating_sub(1) * strides[d] + extent).saturating_sub(b + input[d]);
            begin.push(b);
            end.push(if attrs.int("ceil_mode").unwrap_or(0) != 0 { e.max(reach) } else { e });
        }
        Ok(Window { kernel: kernel.to_vec(), strides, dilations, begin, end, input: input.to_vec(), out })
    }

    /// Input coordinate of tap `k` of window `o` along dimension `d`, if it lies inside.
    pub(crate) fn source(&self, d: usize, o: usize, k: usize) -> Option<usize> {
        let at = (o as u64 * self.strides[d] + k as u64 * self.dilations[d]).checked_sub(self.begin[d])?;
        (at < self.input[d]).then_some(at as usize)
    }

    /// Input coordinates of a tap of a window, if it lies inside along every dimension.
    pub(crate) fn sources(&self, o: &[usize], k: &[usize]) -> Option<Vec<usize>> {
        (0..o.len()).map(|d| self.source(d, o[d], k[d])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::Attr;

    #[test]
    fn same_padding_splits_upper_and_lower() {
        let attrs = |mode: &str| Attrs::default().with("auto_pad", Attr::Str(mode.into())).with("strides", Attr::Ints(vec![2]));
        let upper = Window::new(&attrs("SAME_UPPER"), &[4], &[7]).unwrap();
        assert_eq!((upper.out[0], upper.begin[0], upper.end[0]), (4, 1, 2));
        let lower = Window::new(&attrs("SAME_LOWER"), &[4], &[7]).unwrap();
        assert_eq!((lower.out[0], lower.begin[0], lower.end[0]), (4, 2, 1));
    }

    #[test]
    fn ceil_mode_drops_windows_that_start_in_the_end_padding() {
        let attrs = Attrs::default()
            .with("strides", Attr::Ints(vec![3]))
            .with("pads", Attr::Ints(vec![0, 1]))
            .with("ceil_mode", Attr::Int(1));
        assert_eq!(Window::new(&attrs, &[2], &[6]).unwrap().out, [2]);
        assert_eq!(Window::new(&attrs, &[2], &[7]).unwrap().out, [3]);
    }

    #[test]
    fn symbolic_extents_lose_such_windows_too() {
        let list = |name: &str, values: &[i64]| Attrs::default().with(name, Attr::Ints(values.to_vec()));
        let n = Dim::sym("N");
        for (stride, begin, end, kernel) in [(3, 0, 1, 2), (2, 1, 1, 3), (3, 1, 2, 2), (1, 0, 0, 2), (4, 2, 0, 3)] {
            let attrs = list("strides", &[stride]).with("pads", Attr::Ints(vec![begin, end])).with("ceil_mode", Attr::Int(1));
            let out = out_dims(&attrs, &[kernel], std::slice::from_ref(&n)).unwrap();
            for x in 3..20 {
                let known = out_dims(&attrs, &[kernel], &[Dim::Const(x)]).unwrap();
                let bound = out[0].bind(&onnxc_ir::DimBindings::from([("N".to_string(), x)]));
                assert_eq!(bound, known[0], "{stride} {begin} {end} {kernel} at {x}");
            }
        }
    }

    #[test]
    fn symbolic_extents_stay() {
        let h = Dim::sym("H");
        let attrs = Attrs::default().with("pads", Attr::Ints(vec![1, 1]));
        assert_eq!(out_dims(&attrs, &[3], std::slice::from_ref(&h)).unwrap(), [h]);
    }
}
