//! The generated code of `proto/`: messages, clients and servers.
//!
//! Messages that can carry secrets or tokens print as their name only.

/// Container Storage Interface 1.13.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Kubelet's plugin registration.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::csi::node_service_capability::{Rpc, Type, rpc};
    use super::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode};
    use super::csi::volume_usage::Unit;
    use super::csi::*;

    /// What the Go module of the specification, v1.13.0, writes for the same messages.
    const PUBLISH: &str = "0a056373692d3112060a01701201711a022f7322082f742f6d6f756e742a121a020801\
                           120c0a01781201661a043230303030013a060a016b12017342060a0161120162";
    const CAPABILITIES: &str = "0a040a0208020a040a020806";
    const STATS: &str = "0a0b08ac0210e80718bc052002";

    #[test]
    fn messages_are_the_specification_s_on_the_wire() {
        let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let publish = NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            publish_context: one("p", "q"),
            staging_target_path: "/s".into(),
            target_path: "/t/mount".into(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: access_mode::Mode::SingleNodeWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume {
                    fs_type: "x".into(),
                    mount_flags: vec!["f".into()],
                    volume_mount_group: "2000".into(),
                })),
            }),
            readonly: true,
            secrets: one("k", "s"),
            volume_context: one("a", "b"),
        };
        assert!(read::<NodePublishVolumeRequest>(PUBLISH) == publish);

        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        let capabilities = [rpc::Type::GetVolumeStats, rpc::Type::VolumeMountGroup].map(capability);
        let capabilities = NodeGetCapabilitiesResponse { capabilities: capabilities.into() };
        assert!(read::<NodeGetCapabilitiesResponse>(CAPABILITIES) == capabilities);

        let usage =
            VolumeUsage { available: 300, total: 1000, used: 700, unit: Unit::Inodes.into() };
        let stats = NodeGetVolumeStatsResponse { usage: vec![usage] };
        assert!(read::<NodeGetVolumeStatsResponse>(STATS) == stats);
    }

    fn read<M: Message + Default>(hex: &str) -> M {
        let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        M::decode(&*bytes).unwrap()
    }
}
