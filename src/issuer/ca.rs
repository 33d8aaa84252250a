//! `ca`: a CA key on the node signs.
#[derive(Debug)]
pub struct Ca;
#[derive(Debug)]
pub struct CaLimits;
