//! x
pub fn expand(p: &crate::scalar::ScalarProgram) -> crate::scalar::ScalarProgram {
    p.clone()
}
