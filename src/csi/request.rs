//! NodePublishVolume requests: from the wire to [`PublishRequest`] and [`Record`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use tonic::Status;
use zeroize::Zeroizing;

use super::proto::csi::volume_capability::access_mode::Mode;
use super::proto::csi::volume_capability::{AccessType, MountVolume};
use super::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use super::status;
use crate::spec::attributes;
use crate::spec::request::{NodeContext, PublishRequest, RawRequest, Secrets};
use crate::spec::tokens::{PodTokens, TOKENS};
use crate::spec::volume::{PodRef, TargetPath, VolumeId};
use crate::volume::Record;

/// Reads a publish request. `pod_ip` is the pod's address where anybody knows it: kubelet does not
/// say.
///
/// # Errors
///
/// `INVALID_ARGUMENT`, `FAILED_PRECONDITION` or `PERMISSION_DENIED`, with what to change.
pub(super) fn publish(
    request: NodePublishVolumeRequest,
    node: &NodeContext,
    pod_ip: Option<IpAddr>,
) -> Result<(PublishRequest, Record), Status> {
    let NodePublishVolumeRequest {
        volume_id,
        target_path,
        volume_capability,
        readonly,
        secrets,
        volume_context,
        ..
    } = request;
    required("volume_id", &volume_id)?;
    required("target_path", &target_path)?;
    let mount = mount_capability(volume_capability)?;
    if !readonly {
        return Err(status::invalid("pod.spec.volumes[].csi.readOnly must be set to 'true'"));
    }

    let mut attributes: BTreeMap<String, String> = volume_context.into_iter().collect();
    let secrets = secrets.into_iter().map(|(key, value)| (key, Zeroizing::new(value)));
    let mut secrets = Secrets(secrets.collect());
    // Only kubelet can write them there; among the attributes, a pod's author could.
    let tokens = secrets.0.get(TOKENS).and_then(|json| PodTokens::from_json(json));
    secrets.take_from(&mut attributes);
    let raw = RawRequest {
        volume_id: &volume_id,
        target_path: &target_path,
        attributes: &attributes,
        volume_mount_group: &mount.volume_mount_group,
        pod_ip,
    };
    let mut parsed = PublishRequest::parse(raw, &secrets, node)
        .map_err(|error| status::of_request_error(&error))?;
    parsed.tokens = tokens.unwrap_or_default();
    secrets.keep_referenced(&attributes);
    Ok((parsed, Record::new(raw, readonly, secrets)))
}

/// The pod whose address is needed to read the request; most need none.
///
/// # Errors
///
/// As for [`publish`], as far as the request says which volume of which pod.
pub(super) fn names_pod_ip(request: &NodePublishVolumeRequest) -> Result<Option<PodRef>, Status> {
    if !attributes::may_name_pod_ip(&request.volume_context) {
        return Ok(None);
    }
    let attributes: BTreeMap<String, String> = request.volume_context.clone().into_iter().collect();
    let raw = RawRequest {
        volume_id: &request.volume_id,
        target_path: &request.target_path,
        attributes: &attributes,
        volume_mount_group: "",
        pod_ip: None,
    };
    let identity = raw.identity().map_err(|error| status::of_request_error(&error))?;
    let (_, _, pod) = identity;
    Ok(Some(pod))
}

/// Reads an unpublish request. `None` where the path is not one that kubelet makes for the volume:
/// nothing of ours can be there, and what others have there is not ours to remove.
///
/// # Errors
///
/// `INVALID_ARGUMENT` when the id or the path is missing or malformed.
pub(super) fn unpublish(
    request: NodeUnpublishVolumeRequest,
) -> Result<Option<(VolumeId, TargetPath)>, Status> {
    let NodeUnpublishVolumeRequest { volume_id, target_path } = request;
    required("volume_id", &volume_id)?;
    required("target_path", &target_path)?;
    let volume = VolumeId::try_from(volume_id).map_err(|error| status::invalid(error.0))?;
    let target = TargetPath::try_from(PathBuf::from(target_path))
        .map_err(|error| status::invalid(error.0))?;
    let ours = match target.pod_uid_and_volume_name() {
        Ok((pod_uid, _)) => volume.belongs_to(&target, pod_uid).is_ok(),
        Err(_) => false,
    };
    Ok(ours.then_some((volume, target)))
}

/// Checks that a field is there.
pub(super) fn required(name: &str, value: &str) -> Result<(), Status> {
    if value.is_empty() {
        return Err(status::invalid(format!("the request has no {name}")));
    }
    Ok(())
}

fn mount_capability(capability: Option<VolumeCapability>) -> Result<MountVolume, Status> {
    let capability =
        capability.ok_or_else(|| status::invalid("the request has no volume_capability"))?;
    let mode = capability.access_mode.map_or(0, |mode| mode.mode);
    match Mode::try_from(mode) {
        Ok(
            Mode::SingleNodeWriter
            | Mode::SingleNodeReaderOnly
            | Mode::SingleNodeSingleWriter
            | Mode::SingleNodeMultiWriter,
        ) => {}
        Ok(
            mode @ (Mode::MultiNodeReaderOnly
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter),
        ) => {
            return Err(Status::failed_precondition(format!(
                "a certificate volume is for one pod on one node, so it cannot have the access mode {}",
                mode.as_str_name()
            )));
        }
        Ok(Mode::Unknown) => return Err(status::invalid("the request has no access mode")),
        Err(_) => return Err(status::invalid(format!("there is no access mode {mode}"))),
    }
    match capability.access_type {
        Some(AccessType::Mount(mount)) if mount.mount_flags.is_empty() => Ok(mount),
        Some(AccessType::Mount(_)) => {
            Err(status::invalid("a certificate volume takes no mount options: remove them"))
        }
        Some(AccessType::Block(_)) => Err(status::invalid(
            "a certificate volume holds files and cannot be a block device: remove 'fsType: block'",
        )),
        None => Err(status::invalid("the volume_capability has no access type")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::csi::client::{InlineVolume, Kubelet};
    use crate::csi::proto::csi::volume_capability::{AccessMode, BlockVolume};

    /// What comes of a good request that `bend` has changed.
    fn read(
        bend: impl FnOnce(&mut NodePublishVolumeRequest),
    ) -> Result<(PublishRequest, Record), Status> {
        let volume = InlineVolume::new(
            "shop",
            "web-0",
            &[
                ("certmount.dev/issuer-name", "ca"),
                ("certmount.dev/dns-names", "web.shop.svc"),
                ("certmount.dev/jks-file", "web.jks"),
                ("certmount.dev/jks-password-key", "keystore"),
            ],
        );
        let mut request = NodePublishVolumeRequest {
            volume_id: volume.id(),
            target_path: Kubelet::new("/k", "/s").target(&volume).to_str().unwrap().into(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            readonly: true,
            secrets: [("keystore".into(), "sesame".into())].into(),
            volume_context: volume.context(),
            ..Default::default()
        };
        bend(&mut request);
        let node = NodeContext { driver_name: "csi.certmount.dev".into(), node_name: "n".into() };
        publish(request, &node, None)
    }

    fn refused(bend: impl FnOnce(&mut NodePublishVolumeRequest)) -> (Code, String) {
        let status = read(bend).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    fn mode(request: &mut NodePublishVolumeRequest, mode: i32) {
        request.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode });
    }

    fn access_type(request: &mut NodePublishVolumeRequest, access_type: Option<AccessType>) {
        request.volume_capability.as_mut().unwrap().access_type = access_type;
    }

    #[test]
    fn a_bad_argument_is_named_in_the_answer() {
        type Bend = fn(&mut NodePublishVolumeRequest);
        let table: [(Bend, &str); 10] = [
            (|r| r.volume_id.clear(), "volume_id"),
            (|r| r.target_path.clear(), "target_path"),
            (|r| r.volume_capability = None, "volume_capability"),
            (|r| r.volume_capability.as_mut().unwrap().access_mode = None, "access mode"),
            (|r| mode(r, Mode::Unknown.into()), "access mode"),
            (|r| mode(r, 99), "access mode 99"),
            (|r| access_type(r, None), "access type"),
            (|r| access_type(r, Some(AccessType::Block(BlockVolume {}))), "fsType: block"),
            (
                |r| {
                    let mount_flags = vec!["noatime".into()];
                    let mount = MountVolume { mount_flags, ..Default::default() };
                    access_type(r, Some(AccessType::Mount(mount)));
                },
                "mount options",
            ),
            (|r| r.readonly = false, "pod.spec.volumes[].csi.readOnly must be set to 'true'"),
        ];
        for (bend, words) in table {
            let (code, message) = refused(bend);
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_attributes_is_told_with_its_code() {
        let attribute = |key: &'static str, value: &'static str| {
            refused(move |request| {
                request.volume_context.insert(key.to_owned(), value.to_owned());
            })
        };
        let (code, message) = attribute("certmount.dev/dns-name", "web.shop.svc");
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.contains("dns-names"), "{message}");
        let (code, _) = attribute("csi.storage.k8s.io/pod.uid", "another-pod");
        assert_eq!(code, Code::PermissionDenied);
    }

    #[test]
    fn tokens_of_the_pod_come_from_kubelet_only() {
        let json = r#"{"vault":{"token":"t","expirationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let (parsed, _) =
            read(|request| drop(request.secrets.insert(TOKENS.into(), json.into()))).unwrap();
        assert_eq!(parsed.tokens.audiences().collect::<Vec<_>>(), ["vault"]);
        let forged = |request: &mut NodePublishVolumeRequest| {
            request.volume_context.insert(TOKENS.into(), json.into());
        };
        assert_eq!(read(forged).unwrap().0.tokens.audiences().count(), 0);
    }

    #[test]
    fn the_api_is_asked_before_reading_only_where_the_variable_is_named() {
        let needed = |attribute: &str, value: &str| {
            let volume = InlineVolume::new("shop", "web-0", &[(attribute, value)]);
            let target = Kubelet::new("/k", "/s").target(&volume);
            names_pod_ip(&NodePublishVolumeRequest {
                volume_id: volume.id(),
                target_path: target.to_str().unwrap().into(),
                volume_context: volume.context(),
                ..Default::default()
            })
        };
        for (attribute, value) in
            [("csi.cert-manager.io/ip-sans", "${POD_IP}"), ("certmount.dev/common-name", "$POD_IP")]
        {
            assert_eq!(needed(attribute, value).unwrap().unwrap().name, "web-0");
        }
        for (attribute, value) in [
            ("certmount.dev/ip-sans", "10.0.0.1"),
            ("certmount.dev/common-name", "${POD_NAME}"),
            ("example.com/ip-sans", "$POD_IP"),
        ] {
            assert!(needed(attribute, value).unwrap().is_none());
        }
        let forged = read(|request| {
            request.volume_context.insert("certmount.dev/ip-sans".into(), "$POD_IP".into());
            request.volume_context.insert("csi.storage.k8s.io/pod.name".into(), "../x".into());
            names_pod_ip(request).unwrap_err();
        });
        forged.unwrap_err();
    }

    #[test]
    fn only_the_passwords_that_the_volume_uses_are_kept() {
        let with = |key: &'static str, value: &'static str| {
            let bend = move |request: &mut NodePublishVolumeRequest| {
                request.secrets.insert(key.to_owned(), value.to_owned());
            };
            read(bend).unwrap().1
        };
        let (parsed, record) = read(|_| {}).unwrap();
        assert_eq!(parsed.pod.name, "web-0");
        assert!(record.read_only());
        assert!(record.fingerprint().same_secrets(&with("other", "thing").fingerprint()));
        assert!(
            !record.fingerprint().same_secrets(&with("keystore", "another password").fingerprint())
        );
    }

    #[test]
    fn a_volume_is_not_shared_between_nodes() {
        for wanted in
            [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter]
        {
            let (code, message) = refused(|request| mode(request, wanted.into()));
            assert_eq!(code, Code::FailedPrecondition);
            assert!(message.contains(wanted.as_str_name()), "{message}");
        }
    }

    #[test]
    fn an_unpublish_needs_an_id_and_a_path() {
        let unpublish = |volume_id: &str, target_path: &str| {
            let (volume_id, target_path) = (volume_id.to_owned(), target_path.to_owned());
            unpublish(NodeUnpublishVolumeRequest { volume_id, target_path })
        };
        let table = [
            ("", "/t/mount", "volume_id"),
            ("csi-1", "", "target_path"),
            ("../csi-1", "/t/mount", "volume id"),
            ("csi-1", "t/mount", "path"),
            ("csi-1", "/t/../mount", "path"),
        ];
        for (volume, target, words) in table {
            let status = unpublish(volume, target).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(words), "{:?}", status.message());
        }
    }

    #[test]
    fn an_unpublish_touches_only_paths_that_kubelet_makes() {
        let volume = InlineVolume::new("shop", "web-0", &[]);
        let target = Kubelet::new("/k", "/s").target(&volume);
        let ours = |volume_id: String, target_path: &str| {
            let target_path = target_path.to_owned();
            unpublish(NodeUnpublishVolumeRequest { volume_id, target_path }).unwrap().is_some()
        };
        assert!(ours(volume.id(), target.to_str().unwrap()));
        assert!(!ours(volume.id(), "/etc"));
        assert!(!ours(volume.id(), "/k/pods/other/volumes/kubernetes.io~csi/tls/mount"));
        assert!(!ours("csi-1".to_owned(), target.to_str().unwrap()));
    }
}
