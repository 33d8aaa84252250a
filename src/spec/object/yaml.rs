//! YAML texts of several objects, read one document at a time with the place of each error.
//!
//! What a text may cost is bounded before it is parsed: its size, its depth, and how often aliases
//! are expanded. JSON is YAML, so it needs nothing of its own.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_saphyr::{Error, UserMessageFormatter};

use super::{
    API_VERSION, Base64, ConfigMapObject, GROUP, IssuerKind, IssuerObject, IssuerSpec, Object,
    PlainText, SecretObject, is_object_name,
};
use crate::spec::values::quoted;

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
    split(text)
        .filter_map(|(lines_before, document)| {
            let first_line = first_line(document)?;
            let read = read_object(document, first_line);
            Some(match read {
                Ok(object) => Ok(Document { line: lines_before + first_line, object }),
                Err(error) => Err(DocumentError { line: lines_before + error.line, ..error }),
            })
        })
        .collect()
}

/// Splits `text` as kubectl does, at lines that begin with the document marker: inside of a
/// document no line can (YAML 1.2 §9.1.2). Answers each document and the lines before it.
fn split(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let is_marker = |line: &str| {
        let after = line.strip_prefix("---");
        after.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let mut rest = text;
    let mut lines_before = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut length, mut lines) = (0, 0);
        for line in rest.split_inclusive('\n') {
            if lines > 0 && is_marker(line) {
                break;
            }
            length += line.len();
            lines += 1;
        }
        let (document, after) = rest.split_at(length);
        rest = after;
        lines_before += lines;
        Some((lines_before - lines, document))
    })
}

/// The line at which the document's content begins; `None` for nothing but comments.
fn first_line(document: &str) -> Option<u64> {
    let position = document.lines().position(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        !content.is_empty() && !content.starts_with('#') && content != "..."
    })?;
    Some(position as u64 + 1)
}

/// Reads one document twice: what it is decides what its fields are.
fn read_object(document: &str, first_line: u64) -> Result<Object, DocumentError> {
    let Header { api_version, kind, metadata: Metadata { name, namespace } } =
        read(document, first_line, None)?;
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
            let IssuerDocument { spec, .. } = read(document, first_line, Some(&object))?;
            let issuer = IssuerObject::new(kind, namespace, name, spec).map_err(|message| {
                DocumentError { object: Some(object), ..DocumentError::at(first_line, message) }
            })?;
            Ok(Object::Issuer(Box::new(issuer)))
        }
        Kind::ConfigMap => {
            let ConfigMapDocument { data, .. } = read(document, first_line, Some(&object))?;
            Ok(Object::ConfigMap(ConfigMapObject { namespace, name, data }))
        }
        Kind::Secret => {
            let SecretDocument { data, string_data, .. } =
                read(document, first_line, Some(&object))?;
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

/// Reads `document` as a `T`; `first_line` and `object` say where an error is that cannot say so.
fn read<T: DeserializeOwned>(
    document: &str,
    first_line: u64,
    object: Option<&str>,
) -> Result<T, DocumentError> {
    // A configuration is small: a text that needs more than this is meant to do harm.
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        budget: serde_saphyr::budget! {
            max_aliases: 100,
            max_anchors: 100,
            max_depth: 32,
            max_documents: 2,
            max_nodes: 50_000,
            max_recorded_anchor_events: 10_000,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    let mut track = serde_path_to_error::Track::new();
    serde_saphyr::with_deserializer_from_str_with_options(document, options, |deserializer| {
        T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
    })
    .map_err(|error| {
        let place = error.location().filter(|place| place.line() > 0);
        let (line, column) = place.map_or((first_line, 1), |place| (place.line(), place.column()));
        let message = message(error.without_snippet());
        // Outside of any field the path is a dot or a question mark.
        let message = match track.path().to_string().trim_end_matches(['.', '?']) {
            "" => message,
            path => format!("{path}: {message}"),
        };
        let object = object.map(str::to_owned);
        DocumentError { line, column, object, message: printable(&message) }
    })
}

/// What is wrong, in words that show no value but those that our own types quote.
fn message(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => match nearest(field, expected) {
            Some(near) => format!("unknown field {}, did you mean {near}?", quoted(field)),
            None => format!("unknown field {}; known are {}", quoted(field), expected.join(", ")),
        },
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("this must be {expected}")
        }
        Error::SerdeUnknownVariant { expected, .. } => {
            format!("this must be one of {}", expected.join(", "))
        }
        Error::QuotingRequired { .. } => "this text needs quotes".to_owned(),
        Error::NonFiniteFloat { .. } => "this is not a number".to_owned(),
        error => {
            let message = error.render_with_formatter(&UserMessageFormatter);
            match error.location() {
                Some(at) => {
                    let place = format!(" at line {}, column {}", at.line(), at.column());
                    message.strip_suffix(&place).unwrap_or(&message).to_owned()
                }
                None => message,
            }
        }
    }
}

/// The known name that `name` was most likely meant to be.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::osa_distance(&known.to_lowercase(), &name.to_lowercase());
    let (distance, near) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= near.len() / 3).then_some(near)
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
}
