//! The volumes of ours in Kubernetes manifests, with the places where they are written.

use std::collections::BTreeMap;

pub(super) use crate::spec::yaml::Place;
use crate::spec::yaml::{Node, Value, YamlError, documents};

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
    for (lines_before, first_line, document) in documents(yaml) {
        let node = Node::parse(document).map_err(|error| unreadable(error, lines_before))?;
        if text(&node, "kind").is_some_and(|kind| MAKE_PODS.contains(&kind)) {
            found.lines.push(lines_before + first_line);
            let object = Object { node: &node, owner: None, lines_before };
            found.collect(&object, driver)?;
        }
    }
    Ok(found)
}

const MAKE_PODS: [&str; 9] = [
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

/// A file of volume attributes alone.
pub(super) fn attributes(yaml: &str) -> Result<BTreeMap<String, (String, Place)>, ManifestError> {
    let attributes = Node::parse(yaml).map_err(|error| unreadable(error, 0))?;
    strings(&attributes, 0)
}

impl Manifests {
    /// Looks for volumes in a pod, or in something with pods or templates of pods in it at any
    /// depth.
    fn collect(&mut self, object: &Object<'_>, driver: &str) -> Result<(), ManifestError> {
        for item in object.field("items").map_or(&[][..], Node::items) {
            let item = Object { node: item, owner: None, lines_before: object.lines_before };
            self.collect(&item, driver)?;
        }
        let Some(spec) = object.field("spec") else { return Ok(()) };
        for volume in spec.get("volumes").map_or(&[][..], Node::items) {
            let csi = volume.get("csi");
            let is_ours = |csi: &&Node| text(csi, "driver") == Some(driver);
            if let Some(csi) = csi.filter(is_ours) {
                self.volumes.push(object.volume(spec, volume, csi)?);
            }
        }
        for template in ["template", "jobTemplate"].into_iter().filter_map(|name| spec.get(name)) {
            let owner = Some((object.namespace(), object.metadata("name")));
            let template = Object { node: template, owner, lines_before: object.lines_before };
            self.collect(&template, driver)?;
        }
        Ok(())
    }
}

/// An object, or the template of one.
struct Object<'a> {
    node: &'a Node,
    /// Of a template: a template's pods live where its owner lives and are named after it.
    owner: Option<(String, Option<String>)>,
    /// The lines before its document.
    lines_before: u64,
}

impl Object<'_> {
    fn field(&self, name: &str) -> Option<&Node> {
        self.node.get(name)
    }

    fn namespace(&self) -> String {
        match &self.owner {
            Some((namespace, _)) => namespace.clone(),
            None => self.metadata("namespace").unwrap_or_else(|| "default".to_owned()),
        }
    }

    fn metadata(&self, name: &str) -> Option<String> {
        if let (Some((_, owner)), "name") = (&self.owner, name) {
            return owner.as_ref().map(|owner| format!("{owner}-0"));
        }
        self.field("metadata").and_then(|metadata| text(metadata, name)).map(str::to_owned)
    }

    fn volume(
        &self,
        spec: &Node,
        volume: &Node,
        csi: &Node,
    ) -> Result<InlineVolume, ManifestError> {
        let or = |text: Option<&str>, otherwise: &str| text.unwrap_or(otherwise).to_owned();
        let fs_group = spec.get("securityContext").and_then(|context| context.get("fsGroup"));
        let secret = csi.get("nodePublishSecretRef").and_then(|secret| text(secret, "name"));
        Ok(InlineVolume {
            place: place(csi.place, self.lines_before),
            name: or(text(volume, "name"), ""),
            read_only: csi
                .get("readOnly")
                .is_some_and(|it| matches!(it.value, Value::Boolean(true))),
            fs_group: fs_group
                .map(Node::read)
                .transpose()
                .map_err(|error| unreadable(error, self.lines_before))?,
            secret: secret.map(str::to_owned),
            attributes: match csi.get("volumeAttributes") {
                Some(attributes) => strings(attributes, self.lines_before)?,
                None => BTreeMap::new(),
            },
            pod: PodTemplate {
                namespace: self.namespace(),
                name: self.metadata("name").unwrap_or_else(|| "pod".to_owned()),
                service_account: or(text(spec, "serviceAccountName"), "default"),
            },
        })
    }
}

fn text<'a>(node: &'a Node, field: &str) -> Option<&'a str> {
    node.get(field).and_then(Node::text)
}

fn unreadable(error: YamlError, lines_before: u64) -> ManifestError {
    let at = error.place.unwrap_or(Place { line: 1, column: 1 });
    ManifestError { place: place(at, lines_before), message: error.to_string() }
}

fn place(at: Place, lines_before: u64) -> Place {
    Place { line: at.line + lines_before, ..at }
}

fn strings(
    attributes: &Node,
    lines_before: u64,
) -> Result<BTreeMap<String, (String, Place)>, ManifestError> {
    let checked = attributes.fields().map(|(key, value)| {
        let place = place(value.place, lines_before);
        let what = match &value.value {
            Value::Text(text) => return Ok((key.name.clone(), (text.to_string(), place))),
            Value::Boolean(_) => "a boolean",
            Value::Negative(_) | Value::Natural(_) | Value::Float(_) => "a number",
            Value::Null => "null",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        };
        let key = &key.name;
        let message =
            format!("{key} is {what}, and Kubernetes takes strings only: put it in quotes");
        Err(ManifestError { place, message })
    });
    checked.collect()
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
