//! The gRPC surface: CSI Identity and Node, and kubelet plugin registration.

pub mod proto;
