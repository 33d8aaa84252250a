//! What several test files need. Each is a crate of its own and uses a part of it.

#![allow(dead_code, unreachable_pub, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod command;
pub mod https;
pub mod named;
mod namespace;
mod plugin;
mod template;
pub mod volume;

#[allow(unused_imports, reason = "no test file uses all of it")]
pub use command::output_with;
#[allow(unused_imports, reason = "no test file uses all of it")]
pub use namespace::{namespaced, namespaced_async};
#[allow(unused_imports, reason = "no test file uses all of it")]
pub use plugin::{Plugin, SELF_SIGNED, inline_volume};
#[allow(unused_imports, reason = "no test file uses all of it")]
pub use template::ca_template;
