//! Compiles the protocols in `proto/` without protoc.

use std::error::Error;

use protox::prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const FILES: [&str; 2] = ["csi/v1/csi.proto", "pluginregistration/v1/pluginregistration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
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
