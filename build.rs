//! Compiles the protocols in `proto/` without protoc.

use std::error::Error;

use protox::prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const FILES: [&str; 2] = ["csi/v1/csi.proto", "pluginregistration/v1/pluginregistration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    if is_static() {
        // The table of what has to be moved at the start takes a tenth of the space this way. Where
        // the program is not static, it would need a loader that knows of it.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let files = protox::compile(FILES, ["proto"])?;
    let messages = DescriptorPool::from_file_descriptor_set(files.clone())?;
    let unprintable = messages.all_messages().filter(is_unprintable);
    let unprintable = unprintable.map(|message| format!(".{}", message.full_name()));
    // A call that a service does not have answers UNIMPLEMENTED.
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .skip_debug(unprintable)
        .compile_fds(files)?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "this is how cargo tells a build script")]
fn is_static() -> bool {
    let is = |name: &str, what: &str| {
        std::env::var(name).is_ok_and(|value| value.split(',').any(|one| one == what))
    };
    is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_FEATURE", "crt-static")
}

/// Whether a message can hold a secret or a token. It gets no `Debug`, so that no code can print
/// it. Kubelet puts tokens into the volume context where the CSIDriver object does not ask for
/// them in the secrets.
fn is_unprintable(message: &MessageDescriptor) -> bool {
    message.fields().any(|field| match field.kind() {
        _ if matches!(field.name(), "secrets" | "volume_context") => true,
        Kind::Message(inner) => is_unprintable(&inner),
        _ => false,
    })
}
