//! certmount: a node-local CSI driver that mounts certificates into pods.
//!
//! A pod declares a CSI volume. certmount makes a tmpfs for it, makes the private key on the node,
//! has the certificate signed by the issuer that the volume names, writes the files atomically, and
//! renews them in place before they expire.
//!
//! # One way through the code
//!
//! ```text
//!  kubelet ──gRPC──▶ csi ──PublishRequest──▶ renew ──Order──▶ issuer ──▶ a CA
//!                     │                       │  ◀── Issued ────┘
//!                     │                       ├──▶ x509::Bundle::new    checked before it is used
//!                     │                       └──▶ volume               a tmpfs, an atomic swap
//!                     └──Publication::ready──────▶ volume on its target path: the pod reads /tls
//!
//!  config ──IssuerSet──▶ renew                                 issuers and Secrets, as they change
//!  renew ──Report──▶ observe                                   metrics, logs, health, inspect
//! ```
//!
//! # The parts, lowest first
//!
//! Imports go down only, and parts of one line do not know each other; `tests/layers.rs` holds that.
//!
//! | part | owns | the only one that touches |
//! |---|---|---|
//! | [`clock`], [`error`], `sync` | what time it is; errors as text; locks | the system's clock |
//! | [`kubernetes`] | the way to the Kubernetes API | |
//! | [`x509`] | keys, requests, certificates, chains, encodings | x509-cert, x509-parser |
//! | [`spec`] | what is asked: attributes, names, policy, issuer objects | |
//! | [`anchors`], [`issuer`], [`volume`] | trust anchors from elsewhere; one CA each behind one trait; the tmpfs, the atomic writer, the record | reqwest; mounts |
//! | [`renew`] | when to renew, how to back off, one task for each volume | |
//! | [`csi`], [`observe`], [`config`] | gRPC and kubelet; metrics, health, logs; issuers from files | tonic and prost; prometheus-client; notify |
//! | [`cli`] | the commands: the only place that builds the graph | clap |
//!
//! # What holds everywhere
//!
//! - **A volume is one tmpfs, and everything about it lives inside**: the record of what was asked,
//!   the key of an order under way, the state behind the files. A reboot leaves nothing stale, a
//!   restart finds everything, nothing touches a disk.
//! - **One task owns a volume.** A publish starts it or finds it and only waits; a call that times
//!   out loses nothing, and two at once cannot race.
//! - **Check before replace.** [`x509::Bundle::new`] is the only way to something that may be
//!   written. A bad answer of a CA never replaces a good certificate.
//! - **Time is an argument.** Only [`clock`] asks what time it is.
//! - **Secrets are types** without `Clone` and `Serialize` that print nothing.
//! - **Names are allowed, not assumed**: see [`spec::policy`].

pub mod clock;
pub mod error;
pub mod kubernetes;
mod sync;
mod trace;

pub mod x509;

pub mod spec;

pub mod anchors;
pub mod issuer;
pub mod volume;

pub mod renew;

pub mod config;
pub mod csi;
pub mod observe;

pub mod cli;
