//! From attributes to the sources of further trust anchors.

use super::reader::{Reader, is_dns_subdomain};
use crate::spec::attributes::Name;
use crate::spec::values::quoted;
use crate::spec::volume::TrustRef;

/// Reads where trust anchors come from, beside the issuer.
pub(super) fn trust(reader: &mut Reader<'_>) -> Vec<TrustRef> {
    let mut sources = reader.each(Name::TrustConfigMaps, config_map);
    sources.extend(reader.each(Name::TrustBundles, bundle));
    if sources.len() > MOST_SOURCES {
        reader.problems.add(format_args!(
            "trust-config-maps and trust-bundles name {} sources: at most {MOST_SOURCES} are \
             followed for a volume",
            sources.len()
        ));
    }
    sources
}

/// Each is a watch of its own.
const MOST_SOURCES: usize = 8;

/// `name`, or `name/key`.
fn config_map(text: &str) -> Result<TrustRef, String> {
    /// As in kube-root-ca.crt, which Kubernetes puts into every namespace.
    const DEFAULT_KEY: &str = "ca.crt";
    let (name, key) = text.split_once('/').unwrap_or((text, DEFAULT_KEY));
    match is_dns_subdomain(name) && is_key(key) {
        true => Ok(TrustRef::ConfigMap { name: name.to_owned(), key: key.to_owned() }),
        false => Err(format!(
            "{} is not a ConfigMap of the pod's namespace: write its name, or name/key",
            quoted(text)
        )),
    }
}

/// A key of a ConfigMap, as Kubernetes takes it.
fn is_key(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(inner)
}

/// A bundle's name, such as `example.com:serving:1`, or a signer's, such as `example.com/serving`.
fn bundle(text: &str) -> Result<TrustRef, String> {
    let signer = |(domain, path): (&str, &str)| is_dns_subdomain(domain) && is_dns_subdomain(path);
    if text.split_once('/').is_some_and(signer) {
        return Ok(TrustRef::Signer(text.to_owned()));
    }
    match text.len() <= 253 && text.split(':').all(is_dns_subdomain) {
        true => Ok(TrustRef::Bundle(text.to_owned())),
        false => Err(format!(
            "{} is neither the name of a ClusterTrustBundle nor that of a signer",
            quoted(text)
        )),
    }
}
