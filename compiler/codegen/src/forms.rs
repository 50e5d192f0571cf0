//! Which loops of a function have vector code: for profiles, which want to know why a layer is slow.

use onnxc_ir::lir::{Func, Stmt};
use onnxc_targets::Target;

use crate::leaves::vector_loops;

/// How the innermost loops of a function are compiled, those around kernels not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopForms {
    /// As vector code; a nest of several loops may be one of these.
    pub vector: usize,
    /// By one element after the other.
    pub plain: usize,
}

/// Says which loops of a function have vector code on a target.
pub fn loop_forms(func: &Func, target: &Target) -> LoopForms {
    fn visit(block: &[Stmt], vector: &[*const Stmt], forms: &mut LoopForms) {
        for stmt in block {
            match stmt {
                Stmt::For { .. } if vector.contains(&(stmt as *const Stmt)) => forms.vector += 1,
                Stmt::For { body, .. } => {
                    let inner = |s: &Stmt| matches!(s, Stmt::For { .. } | Stmt::While(..) | Stmt::If(..));
                    forms.plain += usize::from(!body.iter().any(inner) && body.iter().any(|s| matches!(s, Stmt::Store(..))));
                    visit(body, vector, forms);
                }
                Stmt::While(_, body) => visit(body, vector, forms),
                Stmt::If(_, a, b) => [a, b].into_iter().for_each(|block| visit(block, vector, forms)),
                Stmt::Set(..) | Stmt::Store(..) | Stmt::Call(..) => {}
            }
        }
    }
    let mut found = Vec::new();
    vector_loops(func, &func.body, target, &mut found);
    let vector: Vec<*const Stmt> = found.iter().map(|(stmt, _)| *stmt as *const Stmt).collect();
    let mut forms = LoopForms::default();
    visit(&func.body, &vector, &mut forms);
    forms
}
