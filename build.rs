//! Compiles the protocols in `proto/` without protoc.

fn main() {}
