"""Writes compiler/ir/src/math/tables.rs: polynomial coefficients for f32 and f64, and the binary digits of 2/pi.

Each polynomial is a weighted least-squares fit at Chebyshev nodes (close to minimax), of the lowest degree whose relative error on a
dense grid is below 2^-27.5 (f32) or 2^-55.5 (f64). Needs mpmath. Run: python3 compiler/ir/math_tables.py > compiler/ir/src/math/tables.rs
"""
from mpmath import mp, mpf, cos, pi, matrix, lu_solve, exp, log, log1p, tanh, erf, erfc, sin, tan, atan, asin, sinh, asinh, atanh, sqrt, fabs

mp.dps = 50

def nodes(lo, hi, n):
    return [(lo + hi) / 2 + (hi - lo) / 2 * cos(pi * (2 * i + 1) / (2 * n)) for i in range(n)]

def fit(f, weight, lo, hi, goal):
    lo, hi = mpf(lo), mpf(hi)
    for n in range(3, 40):
        xs = nodes(lo, hi, 4 * n)
        # Chebyshev polynomials of the interval keep the system well conditioned; plain powers would do at 50 digits as well.
        a, b = matrix(n, n), matrix(n, 1)
        for x in xs:
            w, y = weight(x), f(x)
            row = [w * x ** k for k in range(n)]
            for i in range(n):
                b[i] += row[i] * w * y
                for j in range(n):
                    a[i, j] += row[i] * row[j]
        c = lu_solve(a, b)
        worst = max(fabs(weight(x) * (f(x) - sum(c[k] * x ** k for k in range(n)))) for x in nodes(lo, hi, 200))
        if worst < goal:
            return [c[k] for k in range(n)], worst
    raise SystemExit("no fit")

def quotient(f, m, n, hi):
    """P(u)/Q(u) of degrees m and n, Q(0) = 1, close to f(u) on 0..hi, where errors count sqrt(u) times: the linearised least-squares fit at Chebyshev
    nodes, weighted by the denominator of the round before."""
    xs = nodes(mpf(0), hi, 4 * (m + n + 2))
    d = [mpf(1)] * len(xs)
    for _ in range(10):
        size = m + 1 + n
        a, b = matrix(size, size), matrix(size, 1)
        for x, old in zip(xs, d):
            w, y = sqrt(x) / old, f(x)
            row = [w * x ** k for k in range(m + 1)] + [-w * y * x ** k for k in range(1, n + 1)]
            for i in range(size):
                b[i] += row[i] * w * y
                for j in range(size):
                    a[i, j] += row[i] * row[j]
        c = lu_solve(a, b)
        p, q = [c[k] for k in range(m + 1)], [mpf(1)] + [c[m + 1 + k] for k in range(n)]
        d = [sum(q[k] * x ** k for k in range(n + 1)) for x in xs]
    value = lambda u: sum(p[k] * u ** k for k in range(m + 1)) / sum(q[k] * u ** k for k in range(n + 1))
    return p, q, max(fabs(sqrt(u) * (value(u) - f(u))) for u in nodes(mpf(0), hi, 400))

tiny = mpf(10) ** -12
odd = lambda g, bound: (lambda u: (g(sqrt(u)) / sqrt(u) - 1) / u, lambda u: u * sqrt(u) / g(sqrt(u)), tiny, mpf(bound) ** 2)
quarter = pi / 4 * mpf("1.0001")
half_ln2 = log(2) / 2 * mpf("1.0001")
root = sqrt(mpf(2))
TABLES = [
    ("exp", "`(exp(r) - 1 - r) / r^2` for `|r| <= ln(2)/2`, in r", lambda r: (exp(r) - 1 - r) / r ** 2, lambda r: r ** 2 / exp(r), -half_ln2, half_ln2),
    ("log", "`(log(1+f) - f + f^2/2) / f^3` for `sqrt(1/2) <= 1+f <= sqrt(2)`, in f", lambda f: (log1p(f) - f + f * f / 2) / f ** 3,
     lambda f: f ** 3 / log1p(f), 1 / root - 1 - mpf("1e-6"), root - 1 + mpf("1e-6")),
    ("tanh", "`(tanh(x)/x - 1) / x^2` for `|x| <= 0.625`, in x^2", *odd(tanh, "0.625")),
    ("erf", "`erf(x)/x` for `|x| <= 1`, in x^2", lambda u: erf(sqrt(u)) / sqrt(u), lambda u: sqrt(u) / erf(sqrt(u)), tiny, mpf(1)),
    ("erfc", "`log(1 - erf(x))` for `1 <= x <= END`, in x", lambda x: log(erfc(x)), lambda x: erfc(x), mpf(1), None),
    ("sin", "`(sin(r)/r - 1) / r^2` for `|r| <= pi/4`, in r^2", *odd(sin, quarter)),
    ("cos", "`(cos(r) - 1 + r^2/2) / r^4` for `|r| <= pi/4`, in r^2", lambda u: (cos(sqrt(u)) - 1 + u / 2) / u ** 2, lambda u: u ** 2 / cos(sqrt(u)), tiny, quarter ** 2),
    ("tan", "`(tan(r)/r - 1) / r^2` for `|r| <= pi/4`, in r^2", *odd(tan, quarter)),
    ("atan", "`(atan(x)/x - 1) / x^2` for `|x| <= tan(pi/8)`, in x^2", *odd(atan, "0.41422")),
    ("asin", "`(asin(x)/x - 1) / x^2` for `|x| <= 0.5`, in x^2", *odd(asin, "0.5")),
    ("sinh", "`(sinh(x)/x - 1) / x^2` for `|x| <= 1`, in x^2", *odd(sinh, "1")),
    ("asinh", "`(asinh(x)/x - 1) / x^2` for `|x| <= 0.5`, in x^2", *odd(asinh, "0.5")),
    ("atanh", "`(atanh(x)/x - 1) / x^2` for `|x| <= 0.5`, in x^2", *odd(atanh, "0.5")),
]

print("//! Polynomial coefficients, lowest power first, and digits of 2/pi. Written by `compiler/ir/math_tables.py`; do not edit.\n")
print("/// The polynomials of one float type.")
print("pub(super) struct Tables {")
for name, doc, *_ in TABLES:
    print(f"    /// {doc}.\n    pub {name}: &'static [f64],")
print("    /// Where erf is 1 in this type.\n    pub erf_end: f64,\n}")
for ty, goal, end in (("F32", mpf(2) ** mpf("-27.5"), 4), ("F64", mpf(2) ** mpf("-55.5"), 6)):
    print(f"\npub(super) static {ty}: Tables = Tables {{")
    for name, doc, f, w, lo, hi in TABLES:
        c, worst = fit(f, w, lo, hi if hi is not None else mpf(end), goal)
        # clippy wants the name of a known constant.
        values = ", ".join(repr(float(x)) for x in c).replace("1.1283791670955126", "std::f64::consts::FRAC_2_SQRT_PI")
        print(f"    // error 2^{float(log(worst, 2)):.1f}\n    {name}: &[{values}],")
    print(f"    erf_end: {end}.0,\n}};")

c, worst = fit(lambda s: (2 ** -s - 1) / s, lambda s: s * 2 ** s, mpf("-0.5001"), mpf("0.5001"), mpf(2) ** mpf("-23.2"))
print(f"\n/// `(2^-s - 1) / s` for `|s| <= 1/2`, in s, for f32.\npub(super) static EXP2: &[f64] = &[ // error 2^{float(log(worst, 2)):.1f}")
print(f"    {', '.join(repr(float(x)) for x in c)},\n];")

c, worst = fit(lambda r: (exp(r) - 1 - r) / r ** 2, lambda r: r ** 2 / exp(r), -half_ln2, half_ln2, mpf(2) ** -23)
print(f"\n/// `(exp(r) - 1 - r) / r^2` for `|r| <= ln(2)/2`, in r, for f32 as a term of the divisor of the sigmoid function.")
print(f"pub(super) static EXP_TERM: &[f64] = &[ // error 2^{float(log(worst, 2)):.1f}")
print(f"    {', '.join(repr(float(x)) for x in c)},\n];")

end = mpf("5.5")
# A little too large at the end: the result is limited to 1/2, which has to be the result far out in whatever way products are rounded.
cdf = lambda u: erf(sqrt(u / 2)) / (2 * sqrt(u)) * (1 + mpf("2e-7") * (u / end ** 2) ** 8)
p, q, worst = quotient(cdf, 5, 5, end ** 2)
print(f"\n/// Where the f32 normal distribution function is 1.\npub(super) const NORMAL_CDF_END: f64 = {end};")
print("/// `(cdf(x) - 1/2) / x` for `|x| <= NORMAL_CDF_END` as a quotient of polynomials in x^2, for f32.")
print("pub(super) static NORMAL_CDF: (&[f64], &[f64]) = (")
print(f"    // error 2^{float(log(worst, 2)):.1f}")
for c in (p, q):
    print(f"    &[{', '.join(repr(float(x)) for x in c)}],")
print(");")

mp.dps = 420
words = int(2 / pi * 2 ** 1280)
print("\n/// The first 1280 binary digits of 2/pi behind the point.")
print("pub(super) static TWO_OVER_PI: [u64; 20] = [")
for i in range(20):
    digits = f"{words >> 64 * (19 - i) & (1 << 64) - 1:016x}"
    print("    0x" + "_".join(digits[k:k + 4] for k in range(0, 16, 4)) + ",")
print("];")
