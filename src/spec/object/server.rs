//! Where a CA's server is and which certificates it may show, as the specs of issuers say it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use super::{SecretKeyRef, values};
use crate::x509::certificates_from_pem;

/// The address of a server: `https`, or `http` on this machine's loopback, without query, fragment
/// and password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerUrl(Url);

/// Which certificates a server may show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CaBundle {
    /// Those that chain to one of these PEM certificates.
    Inline(Vec<u8>),
    /// The same in a Secret, under `ca.crt` where it names no key.
    Secret(SecretKeyRef),
}

impl ServerUrl {
    /// Reads an address.
    ///
    /// # Errors
    ///
    /// When it is none, or one that must not be asked; the message says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let quoted = values::quoted(text);
        let url = Url::parse(text).map_err(|error| {
            format!("{quoted} is not an address such as https://ca.example.com: {error}")
        })?;
        let plain = url.scheme() == "http" && is_loopback(&url);
        if url.scheme() != "https" && !plain {
            return Err(format!(
                "{quoted} is not https: what is sent there could be read on the way; http is for \
                 127.0.0.1 and localhost only"
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address holds a password: put it into a Secret".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{quoted} has more than scheme, host, port and path: take it out"));
        }
        Ok(Self(url))
    }

    /// The address.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The address of `path` below it.
    #[must_use]
    pub fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}", path.trim_start_matches('/')));
        url
    }
}

/// Whether `url` is of this machine itself.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl CaBundle {
    /// What `caBundle` and `caBundleSecretRef` say.
    ///
    /// # Errors
    ///
    /// When both are there, or the first is not the base64 of PEM certificates.
    pub fn read(
        inline: Option<&str>,
        secret: Option<SecretKeyRef>,
    ) -> Result<Option<Self>, &'static str> {
        let text = match (inline, secret) {
            (Some(_), Some(_)) => {
                return Err("there are both caBundle and caBundleSecretRef: take one out");
            }
            (None, secret) => return Ok(secret.map(Self::Secret)),
            (Some(text), None) => text,
        };
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let pem = STANDARD.decode(compact).map_err(
            |_| "caBundle is not base64: encode the PEM certificates once more, with base64 -w0",
        )?;
        match certificates_from_pem(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(Some(Self::Inline(pem))),
            _ => Err("caBundle holds no PEM certificates in its base64"),
        }
    }

    /// The Secret that it names.
    pub fn secret(&self) -> Option<&SecretKeyRef> {
        match self {
            Self::Inline(_) => None,
            Self::Secret(reference) => Some(reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_may_be_asked() {
        for text in [
            "https://vault.example.com",
            "https://vault.example.com:8200/base/",
            "https://10.0.0.1",
            "http://127.0.0.1:8200",
            "http://localhost:8200",
            "http://[::1]:8200",
        ] {
            assert!(ServerUrl::parse(text).is_ok(), "{text}");
        }
        for (text, words) in [
            ("vault.example.com", "is not an address"),
            ("http://vault.example.com", "is not https"),
            ("http://10.0.0.1", "is not https"),
            ("file:///etc/passwd", "is not https"),
            ("https://root:s3cret@vault", "holds a password"),
            ("https://vault?a=b", "more than"),
            ("https://vault#a", "more than"),
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn paths_are_put_below_the_address() {
        for (base, joined) in [
            ("https://vault", "https://vault/v1/pki"),
            ("https://vault/", "https://vault/v1/pki"),
            ("https://vault/a/b/", "https://vault/a/b/v1/pki"),
        ] {
            let url = ServerUrl::parse(base).unwrap();
            assert_eq!(url.join("v1/pki").as_str(), joined);
            assert_eq!(url.join("/v1/pki").as_str(), joined);
        }
        let url = ServerUrl::parse("https://vault").unwrap();
        assert_eq!(url.join("a?b#c").as_str(), "https://vault/a%3Fb%23c");
    }

    #[test]
    fn bundles_are_base64_of_pem() {
        let secret = SecretKeyRef { name: "ca".to_owned(), key: None };
        assert_eq!(CaBundle::read(None, None), Ok(None));
        let read = CaBundle::read(None, Some(secret.clone())).unwrap().unwrap();
        assert_eq!(read.secret(), Some(&secret));
        for (inline, secret) in [
            (Some("-----BEGIN CERTIFICATE-----"), None),
            (Some("bm9uc2Vuc2U="), None),
            (Some(""), None),
            (Some("bm9uc2Vuc2U="), Some(secret)),
        ] {
            assert!(CaBundle::read(inline, secret).is_err(), "{inline:?}");
        }
    }
}
