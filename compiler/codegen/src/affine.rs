//! Index expressions as `constant + sum of coefficient * atom`, the form in which addresses are computed cheaply.

use onnxc_ir::lir::Expr;
use onnxc_ir::scalar::BinOp;

/// A linear form in bytes (or elements: the unit is the caller's). Atoms are variables or expressions that are not linear.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Affine {
    /// Atoms with their coefficients, none of them zero, no atom twice.
    pub terms: Vec<(Expr, i64)>,
    /// The constant.
    pub constant: i64,
}

impl Affine {
    /// `index * scale`.
    pub fn of(index: &Expr, scale: i64) -> Affine {
        let mut form = Affine::default();
        form.add(index, scale);
        form.terms.retain(|(_, k)| *k != 0);
        form.terms.sort_by_key(|(atom, _)| if let Expr::Var(v) = atom { v.0 } else { u32::MAX });
        form
    }

    fn add(&mut self, e: &Expr, scale: i64) {
        match e {
            Expr::Int(k) => self.constant = self.constant.wrapping_add(k.wrapping_mul(scale)),
            Expr::Bin(BinOp::Add, a, b) => {
                self.add(a, scale);
                self.add(b, scale);
            }
            Expr::Bin(BinOp::Sub, a, b) => {
                self.add(a, scale);
                self.add(b, scale.wrapping_neg());
            }
            Expr::Bin(BinOp::Mul, a, b) => match (&**a, &**b) {
                (e, Expr::Int(k)) | (Expr::Int(k), e) => self.add(e, scale.wrapping_mul(*k)),
                _ => self.atom(e, scale),
            },
            Expr::Bin(BinOp::Shl, a, b) => match **b {
                Expr::Int(k) if (0..63).contains(&k) => self.add(a, scale.wrapping_mul(1 << k)),
                _ => self.atom(e, scale),
            },
            _ => self.atom(e, scale),
        }
    }

    fn atom(&mut self, e: &Expr, scale: i64) {
        match self.terms.iter_mut().find(|(atom, _)| atom == e) {
            Some((_, k)) => *k = k.wrapping_add(scale),
            None => self.terms.push((e.clone(), scale)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::lir::Var;

    #[test]
    fn linear_parts_are_merged_and_the_rest_are_atoms() {
        let (i, j) = (Expr::Var(Var(0)), Expr::Var(Var(1)));
        let product = Expr::bin(BinOp::Mul, i.clone(), j.clone());
        let index = i.clone().times(3).add(j.clone().times(5)).add(Expr::Int(7)).add(product.clone());
        let index = Expr::bin(BinOp::Sub, index, j.clone().times(5)).add(Expr::bin(BinOp::Shl, i.clone(), Expr::Int(2)));
        let form = Affine::of(&index, 4);
        assert_eq!(form, Affine { terms: vec![(i, 28), (product, 4)], constant: 28 });
    }
}
