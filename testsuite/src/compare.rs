//! The two comparison rules of the project: whole models by `max|a-b| <= tol * max|b|`, operators by `rtol`/`atol`.

use crate::tensor::{Tensor, code};

/// Magnitudes below the smallest normal `f32` count as zero: some targets flush subnormals and some do not.
const SUBNORMAL: f64 = 1.2e-38;

fn flushed(t: &Tensor) -> Result<Vec<f64>, String> {
    let mut v = t.to_f64().ok_or_else(|| format!("element type {} has no numeric comparison", t.elem_type))?;
    if t.elem_type == code::F32 {
        v.iter_mut().filter(|x| x.abs() < SUBNORMAL).for_each(|x| *x = 0.0);
    }
    Ok(v)
}

fn pairs(got: &Tensor, want: &Tensor) -> Result<Vec<(f64, f64)>, String> {
    if got.elem_type != want.elem_type || got.dims != want.dims {
        return Err(format!("got type {} {:?}, wanted type {} {:?}", got.elem_type, got.dims, want.elem_type, want.dims));
    }
    Ok(flushed(got)?.into_iter().zip(flushed(want)?).collect())
}

/// `max|a-b| / max|b|` over the finite elements.  Type, shape, and the places and signs of NaN and infinities must agree.
pub fn relative_error(got: &Tensor, want: &Tensor) -> Result<f64, String> {
    let (mut diff, mut scale) = (0f64, 0f64);
    for (i, (a, b)) in pairs(got, want)?.into_iter().enumerate() {
        if !(a.is_finite() && b.is_finite()) {
            if a == b || a.is_nan() && b.is_nan() {
                continue;
            }
            return Err(format!("element {i}: got {a}, wanted {b}"));
        }
        diff = diff.max((a - b).abs());
        scale = scale.max(b.abs());
    }
    Ok(if diff == 0.0 { 0.0 } else { diff / scale })
}

/// Whole-model rule: [`relative_error`] at most `tolerance`; the error text says by how much it is missed.
pub fn close(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<f64, String> {
    let error = relative_error(got, want)?;
    // Written so that a NaN error fails.
    if error <= tolerance { Ok(error) } else { Err(format!("relative error {error:.3e} is above {tolerance:.0e}")) }
}

/// Operator rule, that of the ONNX runner: `|a-b| <= atol + rtol * |b|` for each element, NaN equal to NaN.
pub fn all_close(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    for (i, (a, b)) in pairs(got, want)?.into_iter().enumerate() {
        if a != b && !(a.is_nan() && b.is_nan()) && ((a - b).abs() > atol + rtol * b.abs() || (a - b).is_nan()) {
            return Err(format!("element {i}: got {a}, wanted {b}"));
        }
    }
    Ok(())
}

/// Where the largest element of every row of the innermost dimension is: what a recogniser of text decodes.
///
/// # Panics
/// When the tensor is not numeric.
pub fn largest_per_row(t: &Tensor) -> Vec<usize> {
    let values = t.to_f64().expect("a numeric tensor");
    let row = t.dims.last().map_or(1, |n| *n).max(1);
    values.chunks(row).map(|r| (0..r.len()).fold(0, |best, i| if r[i] > r[best] { i } else { best })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_is_relative_to_the_largest_value() {
        let want = Tensor::f32(&[2], &[100.0, 0.0]);
        assert!(close(&Tensor::f32(&[2], &[100.0, 0.009]), &want, 1e-4).is_ok());
        assert!(close(&Tensor::f32(&[2], &[100.0, 0.011]), &want, 1e-4).is_err());
        assert!(close(&Tensor::f32(&[2, 1], &[100.0, 0.0]), &want, 1e-4).is_err());
    }

    #[test]
    fn special_values_must_match() {
        let want = Tensor::f32(&[3], &[f32::NAN, f32::INFINITY, 1.0]);
        assert_eq!(relative_error(&want, &want).unwrap(), 0.0);
        assert!(relative_error(&Tensor::f32(&[3], &[f32::NAN, f32::NEG_INFINITY, 1.0]), &want).is_err());
        assert!(relative_error(&Tensor::f32(&[3], &[0.0, f32::INFINITY, 1.0]), &want).is_err());
        assert!(all_close(&want, &want, 0.0, 0.0).is_ok());
        let (zero, tiny) = (Tensor::f32(&[1], &[0.0]), Tensor::f32(&[1], &[1e-39]));
        assert!(all_close(&zero, &tiny, 0.0, 0.0).is_ok());
        assert!(close(&Tensor::f32(&[1], &[1.0]), &zero, 1e-4).is_err());
    }
}
