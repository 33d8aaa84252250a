//! certmount: a node-local CSI driver that mounts certificates into pods.
//!
//! ```text
//!  kubelet ──gRPC──▶ csi ──PublishRequest──▶ renew ──▶ issuer ──▶ (CA, ACME, Vault, Venafi, cert-manager…)
//!                                              │  ◀── Issued chain
//!                                              ├──▶ x509::Bundle::new   (check before use)
//!                                              └──▶ volume (tmpfs, atomic swap) ──▶ pod reads /tls
//!  renew ──Report──▶ observe (metrics, health)
//! ```

pub mod clock;
pub mod error;

pub mod x509;

pub mod spec;

pub mod issuer;
pub mod volume;

pub mod renew;

pub mod config;
pub mod csi;
pub mod observe;

pub mod cli;
