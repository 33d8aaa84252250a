//! Issuers from the objects that describe them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::vault::Vault;
use super::venafi::Venafi;
use super::{
    Acme, AcmeAnswers, Ca, CaError, CaLimits, CaMaterial, Chained, Issuer, IssuerKey, SelfSigned,
    WebError,
};
use crate::clock::Clock;
use crate::kubernetes::Access;
use crate::spec::object::{
    CaBundle, CaFiles, CaSource, IssuerMethod, IssuerObject, SecretKeyRef, SecretObject,
};
use crate::x509::AuthorityInformation;

/// Why an issuer is not ready. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What it signs with makes no CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What it is made with is not there.
    #[error("{0}")]
    Missing(String),
    /// What it is made with cannot be used.
    #[error("{0}")]
    Unfit(String),
    /// There is no way to its server.
    #[error(transparent)]
    Web(#[from] WebError),
    /// This build does not have the method.
    #[error("{0} is not supported by this build: use one of the others")]
    Unsupported(&'static str),
}

/// What all issuers of a process share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// What time it is.
    pub clock: Clock,
    /// The node's name.
    pub node_name: String,
    /// The Kubernetes API, where there is one.
    pub access: Option<Access>,
    /// The folder for what must outlive the machine, such as an ACME account's key, where there is
    /// no Kubernetes to keep it.
    pub state_dir: Option<PathBuf>,
    /// What this node answers to CAs that check names.
    pub acme: AcmeAnswers,
    /// The node's addresses, beside those of this process' own network: what a tenant's issuer does
    /// not reach.
    pub node_addresses: Vec<IpAddr>,
}

impl Surroundings {
    /// Those of a process that has nothing but a clock, on a node of that name.
    pub fn new(clock: Clock, node_name: &str) -> Self {
        Self {
            clock,
            node_name: node_name.to_owned(),
            access: None,
            state_dir: None,
            acme: AcmeAnswers::default(),
            node_addresses: Vec::new(),
        }
    }
}

/// What one issuer is made with: Secrets and files by the names that its spec gives them, and for
/// those that are not there, what to do about it. Prints nothing; values are zeroized.
#[derive(Default)]
pub struct Materials {
    secrets: BTreeMap<String, Result<SecretObject, String>>,
    files: BTreeMap<PathBuf, Result<Zeroizing<Vec<u8>>, String>>,
}

/// Makes the issuer that `object` describes with `materials`.
///
/// # Errors
///
/// When the material is missing or does not fit, or when this build does not have the method.
pub fn build(
    object: &IssuerObject,
    materials: &Materials,
    surroundings: &Surroundings,
) -> Result<Arc<dyn Issuer>, BuildError> {
    let clock = &surroundings.clock;
    match &object.spec.method {
        IssuerMethod::Acme(spec) => {
            Ok(Arc::new(Acme::build(object, spec, materials, surroundings)?))
        }
        IssuerMethod::Ca(spec) => {
            let authority = materials.ca(&spec.source)?.load()?;
            let information = AuthorityInformation {
                crl_distribution_points: spec.crl_distribution_points.clone(),
                ocsp_servers: spec.ocsp_servers.clone(),
                issuing_certificate_urls: spec.issuing_certificate_urls.clone(),
            };
            let limits = CaLimits {
                max_duration: spec.max_duration,
                backdate: spec.backdate,
                path_len: spec.path_len,
            };
            Ok(Arc::new(Ca::new(authority, information, limits, clock.clone())))
        }
        IssuerMethod::Chained(spec) => {
            let (key, node_name) = (IssuerKey::of(object), &surroundings.node_name);
            spec.names_on(node_name).map_err(BuildError::Unfit)?;
            let uid = object.uid.as_deref();
            Ok(Arc::new(Chained::new(key, uid, spec.clone(), node_name, clock)))
        }
        IssuerMethod::SelfSigned(spec) => {
            let information = AuthorityInformation {
                crl_distribution_points: spec.crl_distribution_points.clone(),
                ..AuthorityInformation::default()
            };
            Ok(Arc::new(SelfSigned::new(information, clock.clone())))
        }
        IssuerMethod::Vault(spec) => {
            Ok(Arc::new(Vault::build(object, spec, materials, surroundings)?))
        }
        IssuerMethod::Venafi(spec) => {
            Ok(Arc::new(Venafi::new(object, spec, materials, surroundings)?))
        }
        IssuerMethod::Unsupported(method) => Err(BuildError::Unsupported(method)),
    }
}

impl Materials {
    /// The same with the Secret `name`, or what to do about its absence.
    #[must_use]
    pub fn with_secret(mut self, name: &str, secret: Result<SecretObject, String>) -> Self {
        self.secrets.insert(name.to_owned(), secret);
        self
    }

    /// The same with the content of `file`, or why it cannot be read.
    #[must_use]
    pub fn with_file(mut self, file: &Path, content: Result<Zeroizing<Vec<u8>>, String>) -> Self {
        self.files.insert(file.to_owned(), content);
        self
    }

    /// The Secret that the spec calls `name`.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn secret(&self, name: &str) -> Result<&SecretObject, BuildError> {
        match self.secrets.get(name) {
            Some(Ok(secret)) => Ok(secret),
            Some(Err(reason)) => Err(BuildError::Missing(reason.clone())),
            None => Err(BuildError::Missing(format!("there is no Secret {name}: add it"))),
        }
    }

    /// The value that `reference` means, under `default_key` where it names no key.
    ///
    /// # Errors
    ///
    /// When the Secret is not there, or has nothing under the key.
    pub fn value(&self, reference: &SecretKeyRef, default_key: &str) -> Result<&[u8], BuildError> {
        let secret = self.secret(&reference.name)?;
        let key = reference.key.as_deref().unwrap_or(default_key);
        let value = secret.get(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| BuildError::Missing(format!("{secret} has no {key}: add it")))
    }

    /// The PEM certificates that `bundle` means; `None` for the system's.
    ///
    /// # Errors
    ///
    /// As [`Self::value`].
    pub(super) fn ca_bundle(
        &self,
        bundle: Option<&CaBundle>,
    ) -> Result<Option<Vec<u8>>, BuildError> {
        match bundle {
            None => Ok(None),
            Some(CaBundle::Inline(pem)) => Ok(Some(pem.clone())),
            Some(CaBundle::Secret(secret)) => Ok(Some(self.value(secret, "ca.crt")?.to_vec())),
        }
    }

    /// SHA-256 over all of it, to see whether it changed.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for (name, secret) in &self.secrets {
            part(name.as_bytes());
            match secret {
                Ok(secret) => secret.values().for_each(|(key, value)| {
                    part(key.as_bytes());
                    part(value);
                }),
                Err(_) => part(b""),
            }
        }
        for (file, content) in &self.files {
            part(file.as_os_str().as_encoded_bytes());
            part(content.as_ref().map_or(&[], |content| content.as_slice()));
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hash.finish().as_ref());
        fingerprint
    }

    fn ca(&self, source: &CaSource) -> Result<CaMaterial, BuildError> {
        match source {
            CaSource::Secret(name) => Ok(CaMaterial::from_secret(self.secret(name)?)?),
            CaSource::Files(CaFiles { cert_file, key_file, ca_file }) => Ok(CaMaterial {
                certificates: self.file(cert_file)?.to_vec(),
                key: Zeroizing::new(self.file(key_file)?.to_vec()),
                anchors: match ca_file {
                    Some(ca_file) => Some(self.file(ca_file)?.to_vec()),
                    None => None,
                },
            }),
        }
    }

    fn file(&self, file: &Path) -> Result<&[u8], BuildError> {
        match self.files.get(file) {
            Some(Ok(content)) => Ok(content),
            Some(Err(reason)) => Err(BuildError::Missing(reason.clone())),
            None => Err(BuildError::Missing(format!("{} is not there: add it", file.display()))),
        }
    }
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Materials")
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("files", &self.files.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_materials_apart() {
        let secret = |key: &str, value: &str| {
            let value = Zeroizing::new(value.as_bytes().to_vec());
            SecretObject::new(None, "ca".to_owned(), [(key.to_owned(), value)])
        };
        let with = |secret| Materials::default().with_secret("ca", secret).fingerprint();
        let one = with(Ok(secret("a", "bc")));
        assert_eq!(one, with(Ok(secret("a", "bc"))));
        assert_ne!(one, with(Ok(secret("ab", "c"))));
        assert_ne!(one, with(Err("gone".to_owned())));
        assert_ne!(one, Materials::default().fingerprint());
        let content = |text: &str| Ok(Zeroizing::new(text.as_bytes().to_vec()));
        let file = |text| Materials::default().with_file(Path::new("/a"), content(text));
        assert_ne!(file("b").fingerprint(), file("c").fingerprint());
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let secret = SecretObject::new(None, "vault".to_owned(), []);
        let materials = Materials::default()
            .with_secret("vault", Ok(secret))
            .with_secret("gone", Err("there is no Secret gone: add it".to_owned()));
        let value = |name: &str| {
            let reference = SecretKeyRef { name: name.to_owned(), key: None };
            materials.value(&reference, "token").unwrap_err().to_string()
        };
        assert_eq!(value("vault"), "Secret vault has no token: add it");
        assert_eq!(value("gone"), "there is no Secret gone: add it");
        assert!(!format!("{materials:?}").contains("token"));
    }
}
