//! Instructions of the width that an emitter has: `zmm` or `ymm` registers, constants broadcast or repeated.

/// Emits a three-operand instruction for the current width; the last operand is an `Opd`.
macro_rules! op3 {
    ($s:expr, $zi:ident / $yi:ident, $d:expr, $a:expr, $b:expr) => {
        match ($s.zmm, $b) {
            (true, Opd::Reg(b)) => $s.a.$zi(z($d), z($a), z(b))?,
            (true, Opd::Const(bits)) => {
                let l = $s.constant(bits);
                $s.a.$zi(z($d), z($a), dword_bcst(l))?
            }
            (false, Opd::Reg(b)) => $s.a.$yi(y($d), y($a), y(b))?,
            (false, Opd::Const(bits)) => {
                let l = $s.constant(bits);
                $s.a.$yi(y($d), y($a), ymmword_ptr(l))?
            }
        }
    };
    ($s:expr, $i:ident, $d:expr, $a:expr, $b:expr) => {
        op3!($s, $i / $i, $d, $a, $b)
    };
}
/// Emits a two-operand instruction on registers.
macro_rules! op2 {
    ($s:expr, $i:ident, $d:expr, $a:expr) => {
        if $s.zmm { $s.a.$i(z($d), z($a))? } else { $s.a.$i(y($d), y($a))? }
    };
}
/// Emits an instruction with an immediate.
macro_rules! op_imm {
    ($s:expr, $i:ident, $d:expr, $a:expr, $imm:expr) => {
        if $s.zmm { $s.a.$i(z($d), z($a), $imm)? } else { $s.a.$i(y($d), y($a), $imm)? }
    };
}
pub(crate) use {op_imm, op2, op3};
