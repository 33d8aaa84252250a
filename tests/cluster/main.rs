//! What certmount promises in a cluster, on a real Kubernetes that has it from the chart.
//!
//! `tests/cluster/run` brings all of that up and runs these tests one at a time, for some of them
//! restart what the others use. They are no part of a plain `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod cert_manager;
mod certificate;
mod drop_in;
mod install;
mod kubernetes;
mod life;
mod nodeport;
mod pages;
mod publish;
mod scale;
