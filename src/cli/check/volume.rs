//! One volume of a manifest against the attributes' parser and the issuers' policies.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use super::manifest::{InlineVolume, Place};
use super::{Finding, Severity};
use crate::issuer::{IssuerKey, IssuerSet, Issuers};
use crate::spec::attributes::referenced_secret_keys;
use crate::spec::request::{NodeContext, PublishRequest, RawRequest, Secrets};
use crate::spec::volume::{IssuerRef, VolumeId};

/// Checks volumes against one set of issuers.
pub(super) struct Checker {
    known: Vec<IssuerKey>,
    issuers: Issuers,
    node: NodeContext,
}

/// A uid that no pod has.
const POD_UID: &str = "00000000-0000-0000-0000-000000000000";

impl Checker {
    pub(super) fn new(issuers: IssuerSet, node: NodeContext) -> Self {
        let known = issuers.issuers.keys().cloned().collect();
        let (_, issuers) = Issuers::channel(issuers);
        Self { known, issuers, node }
    }

    /// Everything that is wrong with `volume` of `file`.
    pub(super) fn check(&self, file: &Path, volume: &InlineVolume) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |severity, place, message: String| {
            findings.push(Finding::new(file, place, severity, message));
        };
        if !volume.read_only {
            let message = "the volume must be read-only: write readOnly: true beside driver";
            find(Severity::Error, volume.place, message.to_owned());
        }
        match self.request(volume) {
            Err(problems) => {
                for problem in problems {
                    find(Severity::Error, place_of(&problem, volume), problem);
                }
            }
            Ok(request) => {
                for warning in &request.warnings {
                    find(Severity::Warning, place_of(warning, volume), warning.clone());
                }
                if let Err(message) = self.check_issuer(&request) {
                    find(Severity::Error, place_of("issuer-name", volume), message);
                }
            }
        }
        findings
    }

    /// The request that kubelet would make, with a placeholder for what only a real pod has.
    fn request(&self, volume: &InlineVolume) -> Result<PublishRequest, Vec<String>> {
        let mut attributes: BTreeMap<String, String> = volume
            .attributes
            .iter()
            .map(|(key, (value, _))| (key.clone(), value.clone()))
            .collect();
        let secrets = placeholders(volume, &attributes);
        for (key, value) in [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", &volume.pod.name),
            ("csi.storage.k8s.io/pod.namespace", &volume.pod.namespace),
            ("csi.storage.k8s.io/pod.uid", POD_UID),
            ("csi.storage.k8s.io/serviceAccount.name", &volume.pod.service_account),
        ] {
            attributes.insert(key.to_owned(), value.to_owned());
        }
        let target_path = format!(
            "/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/{}/mount",
            volume.name
        );
        let volume_id = VolumeId::of_inline_volume(POD_UID, &volume.name);
        let raw = RawRequest {
            volume_id: volume_id.as_str(),
            target_path: &target_path,
            attributes: &attributes,
            volume_mount_group: &volume.fs_group.map(|group| group.to_string()).unwrap_or_default(),
            pod_ip: None,
        };
        PublishRequest::parse(raw, &secrets, &self.node).map_err(|error| error.problems)
    }

    fn check_issuer(&self, request: &PublishRequest) -> Result<(), String> {
        let issuer = &request.certificate.issuer;
        if issuer.group != IssuerRef::BUILT_IN_GROUP {
            return Ok(());
        }
        let Some(entry) = self.issuers.get(issuer, &request.pod.namespace) else {
            return Err(self.unknown(issuer, &request.pod.namespace));
        };
        if let Err(reason) = &entry.issuer {
            return Err(format!("{} {:?} cannot sign: {reason}", issuer.kind, issuer.name));
        }
        let Some(policy) = &entry.policy else { return Ok(()) };
        let denied = policy.check(&request.pod, request.pod_ip, &request.certificate);
        denied.map_err(|denied| denied.to_string())
    }

    fn unknown(&self, issuer: &IssuerRef, namespace: &str) -> String {
        let place = if issuer.kind == "Issuer" {
            format!(" in namespace {namespace}")
        } else {
            String::new()
        };
        let known: Vec<_> = self.known.iter().map(name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "there is no {} {:?}{place}; in this folder there is: {known}",
            issuer.kind, issuer.name
        )
    }
}

fn name(issuer: &IssuerKey) -> String {
    match &issuer.namespace {
        Some(namespace) => format!("{} {namespace}/{}", issuer.kind, issuer.name),
        None => format!("{} {}", issuer.kind, issuer.name),
    }
}

/// A value for each key of the Secret that the attributes refer to, where the volume names one.
fn placeholders(volume: &InlineVolume, attributes: &BTreeMap<String, String>) -> Secrets {
    if volume.secret.is_none() {
        return Secrets::default();
    }
    let keys = referenced_secret_keys(attributes).into_iter();
    Secrets(keys.map(|key| (key.to_owned(), Zeroizing::new("placeholder".to_owned()))).collect())
}

/// Where the attribute is that `message` names first, or else the volume.
fn place_of(message: &str, volume: &InlineVolume) -> Place {
    let named = volume.attributes.iter().filter_map(|(key, (_, place))| {
        let name = key.rsplit('/').next().unwrap_or(key);
        Some((message.find(name)?, std::cmp::Reverse(name.len()), *place))
    });
    named.min().map_or(volume.place, |(_, _, place)| place)
}
