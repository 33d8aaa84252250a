//! t
/// t
pub fn markdown() -> String {
    String::new()
}
