//! The volumes of ours in Kubernetes manifests, with the places where they are written.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_saphyr::{Location, Spanned};

/// A line and a column of a file, both from 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// One inline volume of our driver in a pod or in a template of pods.
#[derive(Debug)]
pub(super) struct InlineVolume {
    /// Where its `csi` is.
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) read_only: bool,
    pub(super) fs_group: Option<u32>,
    /// The Secret that `nodePublishSecretRef` names.
    pub(super) secret: Option<String>,
    pub(super) attributes: BTreeMap<String, (String, Place)>,
    pub(super) pod: PodTemplate,
}

/// What is known of a volume's pod before it exists.
#[derive(Clone, Debug)]
pub(super) struct PodTemplate {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
}

/// Something that is not as it has to be, and where.
#[derive(Debug)]
pub(super) struct ManifestError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// What a file has for us.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// The lines at which objects that make pods begin.
    pub(super) lines: Vec<u64>,
    pub(super) volumes: Vec<InlineVolume>,
}

/// The volumes of `driver` in all the documents of `yaml`; documents that make no pods are passed
/// over.
pub(super) fn read(yaml: &str, driver: &str) -> Result<Manifests, ManifestError> {
    let mut found = Manifests::default();
    for (document, first_line) in documents(yaml) {
        let unreadable = |error| unreadable(&error, first_line);
        let kind: Option<Kind> = serde_saphyr::from_str(document).map_err(unreadable)?;
        if !kind.is_some_and(|kind| kind.makes_pods()) {
            continue;
        }
        let object: Object = serde_saphyr::from_str(document).map_err(unreadable)?;
        found.lines.extend(content_line(document).map(|line| first_line + line));
        object.collect(driver, first_line, &mut found.volumes)?;
    }
    Ok(found)
}

/// A file of volume attributes alone.
pub(super) fn attributes(yaml: &str) -> Result<BTreeMap<String, (String, Place)>, ManifestError> {
    let attributes = serde_saphyr::from_str(yaml).map_err(|error| unreadable(&error, 0))?;
    strings(attributes, 0)
}

/// The documents of a YAML stream, each with the number of lines before it.
fn documents(yaml: &str) -> Vec<(&str, u64)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line, text) in (0..).zip(yaml.split_inclusive('\n')) {
        if text.trim_end() == "---" || text.starts_with("--- ") {
            documents.push((&yaml[start..offset], start_line));
            (start, start_line) = (offset, line);
        }
        offset += text.len();
    }
    documents.push((&yaml[start..], start_line));
    documents
}

/// The line, from 1, at which a document has more than comments and its marker.
fn content_line(document: &str) -> Option<u64> {
    let content = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim_start();
        !line.is_empty() && !line.starts_with('#')
    };
    (1..).zip(document.lines()).find(|(_, line)| content(line)).map(|(line, _)| line)
}

fn unreadable(error: &serde_saphyr::Error, first_line: u64) -> ManifestError {
    let place = error.location().map_or(Place { line: 1, column: 1 }, |at| place(at, first_line));
    ManifestError { place, message: error.without_snippet().to_string() }
}

fn place(at: Location, first_line: u64) -> Place {
    Place { line: at.line() + first_line, column: at.column() }
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

impl Kind {
    fn makes_pods(&self) -> bool {
        const KINDS: [&str; 9] = [
            "CronJob",
            "DaemonSet",
            "Deployment",
            "Job",
            "List",
            "Pod",
            "ReplicaSet",
            "ReplicationController",
            "StatefulSet",
        ];
        KINDS.contains(&self.kind.as_str())
    }
}

/// A pod, or something with pods or templates of pods in it at any depth.
#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    items: Vec<Self>,
}

#[derive(Clone, Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    template: Option<Box<Object>>,
    job_template: Option<Box<Object>>,
    service_account_name: Option<String>,
    security_context: Option<SecurityContext>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecurityContext {
    fs_group: Option<u32>,
}

#[derive(Deserialize)]
struct Volume {
    #[serde(default)]
    name: String,
    csi: Option<Spanned<Csi>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Csi {
    #[serde(default)]
    driver: String,
    #[serde(default)]
    read_only: bool,
    node_publish_secret_ref: Option<SecretRef>,
    #[serde(default)]
    volume_attributes: BTreeMap<String, Spanned<Scalar>>,
}

#[derive(Deserialize)]
struct SecretRef {
    name: String,
}

impl Object {
    fn collect(
        self,
        driver: &str,
        first_line: u64,
        found: &mut Vec<InlineVolume>,
    ) -> Result<(), ManifestError> {
        for item in self.items {
            item.collect(driver, first_line, found)?;
        }
        let Some(spec) = self.spec else { return Ok(()) };
        let pod = PodTemplate {
            namespace: self.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: self.metadata.name.clone().unwrap_or_else(|| "pod".to_owned()),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        };
        let fs_group = spec.security_context.and_then(|context| context.fs_group);
        for volume in spec.volumes {
            let Some(csi) = volume.csi.filter(|csi| csi.value.driver == driver) else { continue };
            found.push(InlineVolume {
                place: place(csi.referenced, first_line),
                name: volume.name,
                read_only: csi.value.read_only,
                fs_group,
                secret: csi.value.node_publish_secret_ref.map(|secret| secret.name),
                attributes: strings(csi.value.volume_attributes, first_line)?,
                pod: pod.clone(),
            });
        }
        for template in spec.template.into_iter().chain(spec.job_template) {
            let mut template = *template;
            // A template's pods live where its owner lives and are named after it.
            template.metadata.namespace = self.metadata.namespace.clone();
            template.metadata.name = self.metadata.name.as_ref().map(|name| format!("{name}-0"));
            template.collect(driver, first_line, found)?;
        }
        Ok(())
    }
}

fn strings(
    attributes: BTreeMap<String, Spanned<Scalar>>,
    first_line: u64,
) -> Result<BTreeMap<String, (String, Place)>, ManifestError> {
    let checked = attributes.into_iter().map(|(key, Spanned { value, referenced, .. })| {
        let place = place(referenced, first_line);
        match value {
            Scalar::String(text) => Ok((key, (text, place))),
            Scalar::Other(what) => Err(ManifestError {
                place,
                message: format!(
                    "{key} is {what}, and Kubernetes takes strings only: put it in quotes"
                ),
            }),
        }
    });
    checked.collect()
}

/// A value as YAML understands it.
#[derive(Debug)]
enum Scalar {
    String(String),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::String(text.to_owned()))
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other("a boolean"))
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other("a number"))
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Scalar, E> {
        Ok(Scalar::Other("a number"))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other("a number"))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other("null"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a mapping"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "csi.certmount.dev";

    #[test]
    fn finds_the_volumes_of_pods_and_of_templates() {
        let yaml = "\
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  serviceAccountName: web
  securityContext: {fsGroup: 2000}
  volumes:
  - name: other
    csi: {driver: csi.example.com}
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      nodePublishSecretRef: {name: passwords}
      volumeAttributes:
        certmount.dev/issuer-name: local-ca
---
kind: ConfigMap
spec: [this, is, not, a, pod]
---
# Every night.

kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          volumes:
          - name: tls
            csi: {driver: csi.certmount.dev}
";
        let Manifests { lines, volumes } = read(yaml, DRIVER).unwrap();
        assert_eq!(lines, [1, 22]);
        let [pod, cron] = volumes.as_slice() else { panic!("{volumes:?}") };
        assert_eq!(pod.pod.namespace, "shop");
        assert_eq!(pod.pod.service_account, "web");
        assert_eq!(pod.name, "tls");
        assert_eq!(pod.fs_group, Some(2000));
        assert_eq!(pod.secret.as_deref(), Some("passwords"));
        assert!(pod.read_only);
        let (value, place) = &pod.attributes["certmount.dev/issuer-name"];
        assert_eq!((value.as_str(), place.line, place.column), ("local-ca", 15, 36));
        assert_eq!(cron.pod.name, "nightly-0-0");
        assert_eq!(cron.pod.namespace, "default");
        assert!(!cron.read_only);
        assert_eq!(cron.place.line, 31);
    }

    #[test]
    fn values_that_kubernetes_refuses_are_told_with_their_place() {
        for (value, what) in [
            ("true", "a boolean"),
            ("12", "a number"),
            ("1.5", "a number"),
            ("[a]", "a list"),
            ("{a: b}", "a mapping"),
            ("null", "null"),
        ] {
            let error = attributes(&format!("certmount.dev/is-ca: {value}\n")).unwrap_err();
            assert!(error.message.contains(what), "{value}: {}", error.message);
            assert_eq!(error.place, Place { line: 1, column: 22 });
        }
        assert!(attributes("certmount.dev/is-ca: \"true\"\n").is_ok());
    }

    #[test]
    fn a_manifest_that_is_no_yaml_is_told_with_its_place() {
        let yaml = "kind: ConfigMap\n---\nkind: Pod\nspec:\n  volumes: [\n";
        let error = read(yaml, DRIVER).unwrap_err();
        assert!(error.place.line >= 5, "{error:?}");
    }
}
