//! YAML texts of several objects, read one document at a time with the place of each error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{
    API_VERSION, Base64, ConfigMapObject, GROUP, IssuerKind, IssuerObject, IssuerSpec, Object,
    PlainText, SecretObject, is_object_name,
};
use crate::spec::values::quoted;
use crate::spec::yaml::{Node, Place, YamlError, documents};

/// The longest text that is read, in bytes.
pub const LARGEST_TEXT: usize = 1 << 20;

/// An object and where it is in its text.
#[derive(Clone, Debug)]
pub struct Document {
    /// The line at which it begins, from 1.
    pub line: u64,
    /// The object.
    pub object: Object,
}

/// What is wrong with one document; never shows the value of a Secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct DocumentError {
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// Kind and name, where they could be read.
    pub object: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads every document of a YAML or JSON text; empty ones are passed over.
pub fn parse(text: &str) -> Vec<Result<Document, DocumentError>> {
    if text.len() > LARGEST_TEXT {
        let message = format!("the text is longer than {LARGEST_TEXT} bytes: split it");
        return vec![Err(DocumentError::at(1, message))];
    }
    documents(text)
        .map(|(lines_before, first_line, document)| match read_object(document, first_line) {
            Ok(object) => Ok(Document { line: lines_before + first_line, object }),
            Err(error) => Err(DocumentError { line: lines_before + error.line, ..error }),
        })
        .collect()
}

/// Reads one document as what it says it is.
fn read_object(document: &str, first_line: u64) -> Result<Object, DocumentError> {
    let wrong = |error: YamlError| DocumentError::new(&error, first_line);
    let document = Node::parse(document).map_err(wrong)?;
    let Header { api_version, kind, metadata: Metadata { name, namespace, uid } } =
        document.read().map_err(wrong)?;
    let known = match (api_version.as_str(), kind.as_str()) {
        (API_VERSION, "ClusterIssuer") => Kind::Issuer(IssuerKind::ClusterIssuer),
        (API_VERSION, "Issuer") => Kind::Issuer(IssuerKind::Issuer),
        ("v1", "ConfigMap") => Kind::ConfigMap,
        ("v1", "Secret") => Kind::Secret,
        _ => return Err(DocumentError::at(first_line, not_ours(&api_version, &kind))),
    };
    if name.is_empty() {
        let message = format!("this {kind} has no name: write metadata.name");
        return Err(DocumentError::at(first_line, message));
    }
    let namespace_is_wrong =
        namespace.as_deref().is_some_and(|n| !is_object_name(n) || n.contains('.'));
    if !is_object_name(&name) || namespace_is_wrong {
        let namespace = namespace.as_deref().unwrap_or_default();
        let message = format!(
            "metadata.name {} or metadata.namespace {} is not the name of an object: \
             use lower-case letters, digits and -",
            quoted(&name),
            quoted(namespace),
        );
        return Err(DocumentError::at(first_line, message));
    }

    let object = match &namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    match known {
        Kind::Issuer(kind) => {
            let IssuerDocument { spec, .. } = document.read().map_err(|e| wrong(e).of(&object))?;
            let issuer = IssuerObject::new(kind, namespace, name, uid, spec)
                .map_err(|message| DocumentError::at(first_line, message).of(&object))?;
            Ok(Object::Issuer(Box::new(issuer)))
        }
        Kind::ConfigMap => {
            let ConfigMapDocument { data, .. } =
                document.read().map_err(|e| wrong(e).of(&object))?;
            Ok(Object::ConfigMap(ConfigMapObject { namespace, name, data }))
        }
        Kind::Secret => {
            let SecretDocument { data, string_data, .. } =
                document.read().map_err(|e| wrong(e).of(&object))?;
            let data = data.into_iter().map(|(key, Base64(value))| (key, value));
            // As in Kubernetes, stringData wins.
            let text = string_data.into_iter().map(|(key, PlainText(value))| (key, value));
            Ok(Object::Secret(SecretObject::new(namespace, name, data.chain(text))))
        }
    }
}

fn not_ours(api_version: &str, kind: &str) -> String {
    let is_issuer = matches!(kind, "ClusterIssuer" | "Issuer");
    if is_issuer && (api_version.starts_with("cert-manager.io/") || api_version.starts_with(GROUP))
    {
        return format!("apiVersion is {}: write {API_VERSION}", quoted(api_version));
    }
    format!(
        "apiVersion {} and kind {} are of no object that is read here: write {API_VERSION} with \
         ClusterIssuer or Issuer, or v1 with Secret or ConfigMap",
        quoted(api_version),
        quoted(kind),
    )
}

/// What is read here.
enum Kind {
    Issuer(IssuerKind),
    ConfigMap,
    Secret,
}

/// What the document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

/// Fields that Kubernetes adds are passed over.
#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    spec: IssuerSpec,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    #[serde(default)]
    data: BTreeMap<String, Base64>,
    #[serde(default, rename = "stringData")]
    string_data: BTreeMap<String, PlainText>,
    #[serde(default, rename = "immutable")]
    _immutable: IgnoredAny,
    #[serde(default, rename = "type")]
    _type: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigMapDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default, rename = "binaryData")]
    _binary_data: IgnoredAny,
    #[serde(default, rename = "immutable")]
    _immutable: IgnoredAny,
}

/// `text` without characters that end a line, move the cursor or reorder what follows.
fn printable(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

impl DocumentError {
    fn at(line: u64, message: String) -> Self {
        Self { line, column: 1, object: None, message }
    }

    /// `first_line` is where an error is that cannot say so.
    fn new(error: &YamlError, first_line: u64) -> Self {
        let Place { line, column } = error.place.unwrap_or(Place { line: first_line, column: 1 });
        Self { line, column, object: None, message: printable(&error.to_string()) }
    }

    fn of(self, object: &str) -> Self {
        Self { object: Some(object.to_owned()), ..self }
    }
}
