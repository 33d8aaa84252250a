//! The certmount command.

fn main() {}
