//! One dimension of a resize: which elements an output reads, with which weights (ONNX Resize-19, "Resize" reference formulas).

use onnxc_ir::Attrs;
use onnxc_ir::op::{OpError, OpResult};

/// How positions of the output map to positions of the input.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    TfCropAndResize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// The attributes that concern interpolation.
#[derive(Clone, Debug)]
pub(super) struct Method {
    pub coordinates: Coordinates,
    pub mode: Mode,
    pub rounding: Rounding,
    pub cubic: f64,
    pub exclude_outside: bool,
    pub antialias: bool,
    /// What outputs outside the region get (`tf_crop_and_resize`).
    pub extrapolation: f32,
}

/// One dimension: extents, the factor, and the region (start, end) of `tf_crop_and_resize`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub input: u64,
    pub output: u64,
    pub scale: f64,
    pub region: (f64, f64),
}

/// The inputs of one output position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taps {
    /// Index and weight.
    pub list: Vec<(usize, f64)>,
    /// The position lies outside of the input: the result is the extrapolation value.
    pub outside: bool,
}

impl Method {
    pub fn of(attrs: &Attrs) -> OpResult<Method> {
        let bad = |what: &str, given: &str| Err(OpError::new(format!("{what} {given:?} is not supported")));
        let coordinates = match attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
            "tf_crop_and_resize" => Coordinates::TfCropAndResize,
            other => return bad("coordinate_transformation_mode", other),
        };
        let mode = match attrs.str("mode").unwrap_or("nearest") {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" | "trilinear" => Mode::Linear,
            "cubic" => Mode::Cubic,
            other => return bad("mode", other),
        };
        let rounding = match attrs.str("nearest_mode").unwrap_or("round_prefer_floor") {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return bad("nearest_mode", other),
        };
        Ok(Method {
            coordinates,
            mode,
            rounding,
            cubic: f64::from(attrs.float("cubic_coeff_a").unwrap_or(-0.75)),
            exclude_outside: attrs.int("exclude_outside").unwrap_or(0) != 0,
            antialias: attrs.int("antialias").unwrap_or(0) != 0,
            extrapolation: attrs.float("extrapolation_value").unwrap_or(0.0),
        })
    }

    /// True when positions follow from the scale alone, so that they are those of any extent, kept inside of it.
    pub fn is_of_any_extent(&self) -> bool {
        let by_scale = [Coordinates::HalfPixel, Coordinates::Asymmetric, Coordinates::TfHalfPixelForNn];
        by_scale.contains(&self.coordinates) && !self.exclude_outside && !self.antialias
    }

    /// True when nothing but whole elements is copied.
    pub fn copies(&self) -> bool {
        self.mode == Mode::Nearest
    }

    fn position(&self, x: u64, a: &Axis) -> f64 {
        let (n, x, scale) = (a.input as f64, x as f64, a.scale);
        let half_pixel = (x + 0.5) / scale - 0.5;
        let exact = n * scale;
        match self.coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::PytorchHalfPixel if exact == 1.0 => -0.5,
            Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = a.output as f64 / exact;
                n / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (n - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::TfCropAndResize if a.output > 1 => {
                a.region.0 * (n - 1.0) + x * (a.region.1 - a.region.0) * (n - 1.0) / (exact - 1.0)
            }
            Coordinates::TfCropAndResize => 0.5 * (a.region.0 + a.region.1) * (n - 1.0),
        }
    }

    /// The inputs of every output position of a dimension.
    pub fn taps(&self, a: &Axis) -> Vec<Taps> {
        (0..a.output).map(|x| self.taps_at(x, a)).collect()
    }

    fn taps_at(&self, x: u64, a: &Axis) -> Taps {
        let at = self.position(x, a);
        let last = a.input as i64 - 1;
        let outside = self.coordinates == Coordinates::TfCropAndResize && !(0.0..=last as f64).contains(&at);
        if self.mode == Mode::Nearest {
            let near = match self.rounding {
                Rounding::PreferFloor => (at - 0.5).ceil(),
                Rounding::PreferCeil => (at + 0.5).floor(),
                Rounding::Floor => at.floor(),
                Rounding::Ceil => at.ceil(),
            };
            return Taps { list: vec![((near as i64).clamp(0, last) as usize, 1.0)], outside };
        }
        // Shrinking with antialias widens the filter by the factor.
        let stretch = if self.antialias { a.scale.min(1.0) } else { 1.0 };
        let support = if self.mode == Mode::Linear { 1.0 } else { 2.0 } / stretch;
        let first = if stretch < 1.0 { (at - support).ceil() as i64 } else { at.floor() as i64 - support as i64 + 1 };
        let end = if stretch < 1.0 { (at + support).floor() as i64 } else { at.floor() as i64 + support as i64 };
        let mut weights: Vec<(i64, f64)> = (first..=end).map(|i| (i, self.filter((i as f64 - at) * stretch))).collect();
        if self.exclude_outside {
            weights.iter_mut().filter(|(i, _)| !(0..=last).contains(i)).for_each(|w| w.1 = 0.0);
        }
        let sum: f64 = weights.iter().map(|w| w.1).sum();
        let normalize = (self.exclude_outside || stretch < 1.0) && sum != 0.0;
        let mut list: Vec<(usize, f64)> = Vec::new();
        for (i, w) in weights {
            let (i, w) = (i.clamp(0, last) as usize, if normalize { w / sum } else { w });
            match list.last_mut().filter(|l| l.0 == i) {
                Some(same) => same.1 += w,
                None => list.push((i, w)),
            }
        }
        Taps { list, outside }
    }

    /// The triangle, or Keys' cubic convolution kernel (1981) with parameter `cubic_coeff_a`.
    fn filter(&self, x: f64) -> f64 {
        let (x, a) = (x.abs(), self.cubic);
        match self.mode {
            Mode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Mode::Cubic if x < 2.0 => ((x - 5.0) * x + 8.0) * x * a - 4.0 * a,
            Mode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }
}

/// Output extent of a dimension that is scaled.
pub(super) fn scaled(n: u64, scale: f64) -> OpResult<u64> {
    let out = (n as f64 * scale).floor();
    if !(scale > 0.0 && out <= f64::from(1u32 << 30)) {
        return Err(OpError::new(format!("a scale of {scale} makes no valid extent out of {n}")));
    }
    Ok(out as u64)
}
