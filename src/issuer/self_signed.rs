//! `selfSigned`: the leaf is signed by its own key.
#[derive(Debug)]
pub struct SelfSigned;
