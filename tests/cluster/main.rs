//! What certmount promises in a cluster, on a real Kubernetes that has it from the chart.
//!
//! `tests/cluster/run` brings all of that up and runs these tests one at a time, for some of them
//! restart what the others use. They are no part of a plain `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod bao;
mod cert_manager;
mod cert_manager_external;
mod certificate;
#[path = "../venafi/cloud.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of another test")]
mod cloud;
#[path = "../common/mod.rs"]
mod common;
mod drop_in;
mod external;
mod install;
mod kubernetes;
mod life;
mod nodeport;
mod pages;
#[path = "../acme/pebble.rs"]
#[allow(clippy::disallowed_methods, dead_code, unreachable_pub, reason = "a part of another test")]
mod pebble;
mod publish;
mod renewals;
mod scale;
#[path = "../venafi/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of another test")]
mod server;
#[path = "../venafi/tpp.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of another test")]
mod tpp;
