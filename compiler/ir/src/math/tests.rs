//! Accuracy of the expansions over the whole range, against the standard library in f64.

use super::*;
use crate::dtype::DType::{F32, F64};

/// erf by its Taylor series and, above 2.5, by the continued fraction of erfc; good to about 1e-15.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let m = x.abs();
    let scale = std::f64::consts::FRAC_2_SQRT_PI;
    if m < 2.5 {
        let (mut term, mut sum) = (m, m);
        for n in 1..120 {
            term *= 2.0 * m * m / f64::from(2 * n + 1);
            sum += term;
        }
        return x.signum() * scale * (-m * m).exp() * sum;
    }
    let fraction = (1..120).rev().fold(m, |f, k| m + f64::from(k) / 2.0 / f);
    x.signum() * (1.0 - (-m * m).exp() * scale / 2.0 / fraction)
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

type Reference = fn(f64) -> f64;

/// Operation, reference, allowed ulps of f32 and f64, largest |x| of the sweep, absolute floor of the error unit.
const FUNCTIONS: &[(UnOp, Reference, f64, f64, f64, f64)] = &[
    (UnOp::Exp, f64::exp, 2.0, 3.0, f64::INFINITY, 0.0),
    (UnOp::Log, f64::ln, 2.0, 3.0, f64::INFINITY, 0.0),
    (UnOp::Atan, f64::atan, 2.0, 3.0, f64::INFINITY, 0.0),
    (UnOp::Asin, f64::asin, 3.0, 4.0, 2.0, 0.0),
    (UnOp::Acos, f64::acos, 3.0, 4.0, 2.0, 0.0),
    (UnOp::Erf, erf, 4.0, 16.0, f64::INFINITY, 0.0),
    (UnOp::NormalCdf, normal_cdf, 2.0, 6.0, f64::INFINITY, 1.0),
    (UnOp::Tanh, f64::tanh, 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Sinh, f64::sinh, 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Cosh, f64::cosh, 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Asinh, asinh, 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Acosh, acosh, 4.0, 6.0, f64::INFINITY, 0.0),
    (UnOp::Atanh, atanh, 4.0, 6.0, 2.0, 0.0),
    (UnOp::Sin, f64::sin, 2.0, 3.0, f64::INFINITY, 0.0),
    (UnOp::Cos, f64::cos, 2.0, 3.0, f64::INFINITY, 0.0),
    (UnOp::Tan, f64::tan, 4.0, 4.0, f64::INFINITY, 0.0),
    (
        UnOp::Sign,
        |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        },
        0.0,
        0.0,
        f64::INFINITY,
        0.0,
    ),
];

/// The standard library's asinh loses small and overflows for large arguments.
fn asinh(x: f64) -> f64 {
    let m = x.abs();
    let y = if m > 1e9 { m.ln() + std::f64::consts::LN_2 } else { (m + m * m / (1.0 + (m * m + 1.0).sqrt())).ln_1p() };
    y.copysign(x)
}

fn atanh(x: f64) -> f64 {
    let m = x.abs();
    (0.5 * (2.0 * m / (1.0 - m)).ln_1p()).copysign(x)
}

fn acosh(x: f64) -> f64 {
    if x < 1.0 {
        return f64::NAN;
    }
    let t = x - 1.0;
    if x > 1e9 { x.ln() + std::f64::consts::LN_2 } else { (t + (t * (t + 2.0)).sqrt()).ln_1p() }
}

fn program(op: UnOp, t: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, t);
    p.un(op, x);
    let p = expand(&p);
    assert!(p.nodes.iter().all(|n| !is_expanded(n.op, n.dtype)), "{op:?} is not basic yet");
    p
}

fn call(p: &ScalarProgram, x: f64) -> f64 {
    evaluate(p, &[Scalar::F(x)]).unwrap().f()
}

/// Distance in units of the last place of the type at `want`.
fn ulps(want: f64, got: f64, t: DType, floor: f64) -> f64 {
    let (tiny, eps) =
        if t == F32 { (f64::from(f32::MIN_POSITIVE), f64::from(f32::EPSILON)) } else { (f64::MIN_POSITIVE, f64::EPSILON) };
    let want_rounded = if t == F32 { f64::from(want as f32) } else { want };
    if want_rounded == got || (want.is_nan() && got.is_nan()) || (want.abs() <= 2.0 * tiny && got.abs() <= 2.0 * tiny) {
        return 0.0;
    }
    if !want_rounded.is_finite() || !got.is_finite() {
        // At the very edge of the range one side may round to infinity.
        let edge = if t == F32 { f64::from(f32::MAX) } else { f64::MAX };
        let near = |x: f64| x.is_infinite() || x.abs() > edge * (1.0 - 8.0 * eps);
        return if near(want) && near(got) && want.signum() == got.signum() { 0.0 } else { f64::INFINITY };
    }
    let scale = want.abs().max(floor).max(tiny);
    let unit = 2f64.powi(scale.log2().floor() as i32) * eps;
    (want - got).abs() / unit
}

fn special() -> [f64; 10] {
    [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::from(f32::MIN_POSITIVE), 1e-40, -1e-45]
}

#[test]
fn f32_functions_over_all_magnitudes() {
    let mut bad = Vec::new();
    for &(op, reference, allowed, _, limit, floor) in FUNCTIONS {
        let p = program(op, F32);
        let mut worst = (0.0, 0.0);
        let sweep = (0..=u32::MAX).step_by(61_441).map(|b| f64::from(f32::from_bits(b)));
        let dense = (-20_000..20_000).map(|i| f64::from(i as f32 / 2048.0));
        for x in sweep.chain(dense).chain(special()).map(|x| f64::from(x as f32)) {
            if x.is_finite() && x.abs() > limit {
                continue;
            }
            let error = ulps(reference(x), call(&p, x), F32, floor);
            if error > worst.0 {
                worst = (error, x);
            }
        }
        if worst.0 > allowed {
            bad.push(format!("{op:?}: {} ulp at {:?}: {} for {}", worst.0, worst.1, call(&p, worst.1), reference(worst.1)));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn products_with_a_sigmoid() {
    for t in [F32, F64] {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, t);
        let s = p.un(UnOp::Sigmoid, x);
        p.bin(BinOp::Mul, x, s);
        let p = expand(&p);
        for i in -20_000..20_000 {
            let x = f64::from(i as f32 / 256.0);
            let error = ulps(x / (1.0 + (-x).exp()), call(&p, x), t, 0.0);
            assert!(error <= if t == F32 { 4.0 } else { 6.0 }, "{error} ulp at {x}");
        }
    }
    let mut both = ScalarProgram::default();
    let x = both.arg(0, F32);
    let y = both.arg(1, F32);
    let (s, t) = (both.un(UnOp::Sigmoid, x), both.un(UnOp::Sigmoid, y));
    both.bin(BinOp::Mul, s, t);
    let got = evaluate(&expand(&both), &[Scalar::F(0.0), Scalar::F(0.0)]).unwrap().f();
    assert_eq!(got, 0.25);
}

#[test]
fn f64_functions_over_all_magnitudes() {
    let mut bad = Vec::new();
    for &(op, reference, _, allowed, limit, floor) in FUNCTIONS {
        let p = program(op, F64);
        let mut worst = (0.0, 0.0);
        let sweep = (0..=u64::MAX).step_by((u64::MAX / 40_000) as usize).map(f64::from_bits);
        let dense = (-20_000..20_000).map(|i| f64::from(i) / 2047.0);
        for x in sweep.chain(dense).chain(special()) {
            if x.is_finite() && x.abs() > limit {
                continue;
            }
            let error = ulps(reference(x), call(&p, x), F64, floor);
            if error > worst.0 {
                worst = (error, x);
            }
        }
        if worst.0 > allowed {
            bad.push(format!("{op:?}: {} ulp at {:?}: {} for {}", worst.0, worst.1, call(&p, worst.1), reference(worst.1)));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The program of a machine that rounds the product of a multiply-add.
fn rounding_twice(p: &ScalarProgram) -> ScalarProgram {
    let mut out = ScalarProgram::default();
    let mut map: Vec<NodeIx> = Vec::new();
    for node in &p.nodes {
        map.push(match node.op.map_operands(|o| map[o as usize]) {
            ScalarOp::Fma(a, b, c) => {
                let product = out.bin(BinOp::Mul, a, b);
                out.bin(BinOp::Add, product, c)
            }
            op => out.push(op, node.dtype),
        });
    }
    out.finish(map[map.len() - 1])
}

/// Neighbours of multiples of pi/2, where most digits of the argument cancel, and both sides of the limits between the two reductions.
fn hard_angles(t: DType) -> Vec<f64> {
    let mut hard = vec![16_367_173.0 * 2f64.powi(72), 32_767.99, 32_768.0, 32_768.01];
    if t == F64 {
        hard.extend([67_108_863.9, 67_108_864.0, 67_108_864.1, f64::MAX]);
    }
    let turns = (1..30_000).chain((0..30).map(|i| (1 << i) + 12_345));
    hard.extend(turns.map(|n| f64::from(n) * std::f64::consts::FRAC_PI_2));
    let fitting = |x: &f64| if t == F32 { f64::from(*x as f32) } else { *x };
    hard.iter().map(fitting).flat_map(|x| [x, -x]).collect()
}

#[test]
fn angles_near_multiples_of_a_quarter_turn() {
    let references = [(UnOp::Sin, f64::sin as Reference, 3.0), (UnOp::Cos, f64::cos, 3.0), (UnOp::Tan, f64::tan, 5.0)];
    for t in [F32, F64] {
        for (op, reference, allowed) in references {
            let p = program(op, t);
            let (fused, twice) = (p.clone(), rounding_twice(&p));
            for x in hard_angles(t) {
                let (want, got) = (reference(x), call(&fused, x));
                assert!(ulps(want, got, t, 0.0) <= allowed, "{op:?} of {t} {x:?}: {got:e} for {want:e}");
                // The unit of 1 where the result is small; next to poles their inverses are what is small.
                let pole = want.abs() > 1.0;
                let side = |y: f64| if pole { 1.0 / y } else { y };
                let (want, got) = (side(want), side(call(&twice, x)));
                assert!(ulps(want, got, t, 1.0) <= allowed + 1.0, "{op:?} of {t} {x:?} without fma: {got:e} for {want:e}");
            }
        }
    }
}

/// Of all f64, this one is closest to a multiple of pi/2 (Muller, Elementary Functions, 2016, table 11.1). Libraries lose digits there.
#[test]
fn the_hardest_angle() {
    let x = 6_381_956_970_095_103.0 * 2f64.powi(797);
    let got = call(&program(UnOp::Cos, F64), x);
    assert!(ulps(-4.687_165_924_254_628e-19, got, F64, 0.0) <= 1.0, "{got:e}");
}

/// Far out it is 0 and 1, not almost: gelu multiplies it by x. Machines that round products give the same.
#[test]
fn the_normal_distribution_ends() {
    let p = program(UnOp::NormalCdf, F32);
    for p in [p.clone(), rounding_twice(&p)] {
        for x in [5.5, 6.0, 100.0, 1e30, f64::INFINITY] {
            assert_eq!((call(&p, x), call(&p, -x)), (1.0, 0.0), "{x}");
        }
        for i in -6000..6000 {
            let (x, want) = (f64::from(i as f32 / 1000.0), normal_cdf(f64::from(i as f32 / 1000.0)));
            assert!(ulps(want, call(&p, x), F32, 1.0) <= 2.0, "{x}: {} for {want}", call(&p, x));
        }
        assert!(call(&p, f64::NAN).is_nan());
    }
}

#[test]
fn exponentials_of_non_positive_numbers() {
    let p = program(UnOp::ExpNonPositive, F32);
    for p in [p.clone(), rounding_twice(&p)] {
        let dense = (0..100_000).map(|i| f64::from(-i as f32 / 1024.0));
        for x in dense.chain([-0.0, -1e-40, -1e-20, -1e30, f64::NEG_INFINITY]) {
            let floor = if x < -1.0 { 1.0 } else { 0.0 };
            let (want, got) = (x.exp(), call(&p, x));
            assert!(got >= 0.0 && ulps(want, got, F32, floor) <= 3.0, "{x}: {got} for {want}");
            // The error relative to the result grows with |x| only.
            assert!((got - want).abs() <= want * 2e-7 * (1.0 - x).min(200.0) + 1.2e-38, "{x}: {got} for {want}");
        }
        assert_eq!(call(&p, 0.0), 1.0);
        assert!(call(&p, f64::NAN).is_nan());
    }
}

fn pow_program(exponent: Option<f64>, t: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, t);
    let y = match exponent {
        Some(e) => p.float(e, t),
        None => p.arg(1, t),
    };
    p.bin(BinOp::Pow, x, y);
    expand(&p)
}

#[test]
fn pow_with_any_exponent() {
    let p = pow_program(None, F32);
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1e-3,
        7.25,
        100.0,
        -33.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e10,
    ];
    for x in values {
        for y in values {
            let want = (x as f32 as f64).powf(y as f32 as f64);
            let got = evaluate(&p, &[Scalar::F((x as f32).into()), Scalar::F((y as f32).into())]).unwrap().f();
            let error = ulps(want, got, F32, 0.0);
            assert!(error <= 1.0, "pow({x}, {y}) = {got}, not {want}");
        }
    }
    let p = pow_program(None, F64);
    for i in 1..200 {
        for j in -60..60 {
            let (x, y) = (f64::from(i) * 0.137, f64::from(j) * 0.731);
            let (want, got) = (x.powf(y), evaluate(&p, &[Scalar::F(x), Scalar::F(y)]).unwrap().f());
            assert!((want - got).abs() <= 1e-13 * want, "pow({x}, {y}) = {got}, not {want}");
        }
    }
}

#[test]
fn pow_with_constant_exponents_needs_no_exponential() {
    for e in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 13.0, -1.0, -2.0, -0.5] {
        let p = pow_program(Some(e), F32);
        assert!(p.nodes.len() <= 12, "pow(x, {e}) has {} nodes", p.nodes.len());
        for x in [0.3f64, 1.0, 1.7, 2.5] {
            let x = f64::from(x as f32);
            assert!(ulps(x.powf(e), call(&p, x), F32, 0.0) <= 8.0, "pow({x}, {e})");
        }
    }
}

#[test]
fn remainders() {
    let floored = |x: f64, y: f64| match x - y * (x / y).floor() {
        0.0 => 0f64.copysign(y),
        r => r,
    };
    for (op, reference) in [(BinOp::Rem, (|x, y| x % y) as fn(f64, f64) -> f64), (BinOp::Mod, floored)] {
        let mut p = ScalarProgram::default();
        let (x, y) = (p.arg(0, F32), p.arg(1, F32));
        p.bin(op, x, y);
        let p = expand(&p);
        for (x, y) in [(5.5, 2.0), (-5.5, 2.0), (5.5, -2.0), (-7.0, -3.0), (0.25, 8.0), (100.0, 7.0), (6.0, 2.0), (6.0, -2.0)] {
            let got = evaluate(&p, &[Scalar::F(x), Scalar::F(y)]).unwrap().f();
            // Bits, so that zeros differ.
            assert_eq!(got.to_bits(), reference(x, y).to_bits(), "{op:?} {x} {y}: {got}");
        }
    }
}

#[test]
fn half_precision_goes_through_f32() {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, DType::F16);
    p.un(UnOp::Exp, x);
    let p = expand(&p);
    assert_eq!(p.dtype(p.result()), DType::F16);
    let got = call(&p, 1.0);
    assert_eq!(got, half::f16::from_f64(std::f64::consts::E).to_f64());
}

#[test]
fn functions_in_loops_become_variables() {
    let mut f = Func::default();
    let x = f.var(F32);
    f.body = vec![Stmt::Set(x, Expr::f32(0.5)), Stmt::Set(x, Expr::un(UnOp::Tanh, Expr::Var(x)))];
    expand_func(&mut f);
    assert!(f.body.len() > 4 && f.vars.len() > 3);
    assert!(matches!(f.body.last(), Some(Stmt::Set(v, _)) if *v == x));
}
