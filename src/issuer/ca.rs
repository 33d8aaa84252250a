//! `ca`: a CA key on the node signs.
//!
//! Whoever is root on the node owns the CA: prefer an intermediate, with a path length of zero.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{IssueError, IssueErrorKind, Issuer, Order, default_usages, later, sign_with};
use crate::clock::{Clock, Timestamp, between};
use crate::spec::object::SecretObject;
use crate::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, CertificateError,
    Issued, KeyError, PrivateKey, SignError, Validity, certificates_from_pem,
};

/// Signs with the key of a CA.
#[derive(Debug)]
pub struct Ca {
    authority: CertificateAuthority,
    life: CaLife,
    information: AuthorityInformation,
    limits: CaLimits,
    clock: Clock,
}

/// What a CA makes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CaLimits {
    /// The longest life of a certificate, whatever is asked for.
    pub max_duration: Option<Duration>,
    /// How far before the time of signing certificates become valid.
    pub backdate: Duration,
    /// How many CAs may follow, at most, below a CA that it signs.
    pub path_len: Option<u8>,
}

/// The PEM texts that a CA is made from. Prints nothing; the key is zeroized.
pub struct CaMaterial {
    /// The signing CA's certificate, then those above it.
    pub certificates: Vec<u8>,
    /// The signing CA's private key.
    pub key: Zeroizing<Vec<u8>>,
    /// More trust anchors.
    pub anchors: Option<Vec<u8>>,
}

/// Why PEM texts make no CA. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A Secret without one of the values that it needs.
    #[error("{secret} has no {key}; a CA needs tls.crt and tls.key")]
    MissingValue {
        /// Which Secret.
        secret: String,
        /// The key of the value.
        key: &'static str,
    },
    /// The CA's certificate, or one above it, cannot be read.
    #[error("the CA's certificate cannot be read; put PEM certificates there")]
    Certificate(#[source] CertificateError),
    /// One of the trust anchors cannot be read.
    #[error("the CA's trust anchors cannot be read; put PEM certificates there")]
    Anchors(#[source] CertificateError),
    /// The CA's private key cannot be read.
    #[error("the CA's private key cannot be read; put a PEM key without a password there")]
    Key(#[source] KeyError),
    /// They do not make a CA together.
    #[error(transparent)]
    Unfit(#[from] SignError),
}

/// Less life than this is left to a certificate only by a CA that must be replaced first.
const SHORTEST_LIFE: Duration = Duration::from_secs(3600);

/// Operators get so much time to replace a CA, or a third of its life.
const WARN_BEFORE_END: Duration = Duration::from_secs(30 * 86_400);

impl Ca {
    /// A CA that says `information` in what it signs, at the times of `clock`.
    pub fn new(
        authority: CertificateAuthority,
        information: AuthorityInformation,
        limits: CaLimits,
        clock: Clock,
    ) -> Self {
        // Found once: it takes verifying a signature, which is slower than making one.
        let life = CaLife::of(&authority);
        Self { authority, life, information, limits, clock }
    }

    /// From when until when a certificate that is asked for `requested` holds.
    fn validity(&self, requested: Duration) -> Result<Validity, IssueError> {
        let now = self.clock.now();
        let life = &self.life;
        life.check(now).map_err(|message| IssueError::new(IssueErrorKind::Config, message))?;

        let wanted = self.limits.max_duration.map_or(requested, |longest| requested.min(longest));
        // A certificate that ends with its CA would be the last to be trusted in that second.
        let end = life.not_after();
        let last = end.saturating_sub(Duration::from_secs(1)).unwrap_or(end);
        let not_after = later(now, wanted).min(last);
        let left = between(now, not_after);
        if left < wanted && left < SHORTEST_LIFE.min(wanted / 10) {
            let message = format!(
                "the CA certificate {:?} expires at {}, too soon to sign anything: replace it",
                life.ends_first.subject(),
                life.not_after(),
            );
            return Err(IssueError::new(IssueErrorKind::Config, message));
        }
        let not_before = now.saturating_sub(self.limits.backdate).unwrap_or(now);
        Ok(Validity { not_before: not_before.max(life.not_before()), not_after })
    }
}

#[async_trait]
impl Issuer for Ca {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let validity = self.validity(order.spec.duration)?;
        let mut template = default_usages(&order.spec.template);
        if let (BasicConstraints::Ca { path_len }, Some(most)) =
            (&mut template.basic_constraints, self.limits.path_len)
        {
            *path_len = Some(path_len.unwrap_or(most).min(most));
        }
        let public_key = order.key.public_key_info();
        let authority = &self.authority;
        let leaf = sign_with(authority.key_algorithm(), || {
            authority.sign(&template, public_key, validity, &self.information)
        })
        .map_err(|error| {
            let kind = match error {
                SignError::NameNotAllowed { .. } => IssueErrorKind::Denied,
                SignError::PathTooLong { .. } | SignError::Unencodable(_) => {
                    IssueErrorKind::Request
                }
                _ => IssueErrorKind::Config,
            };
            IssueError::new(kind, "the CA cannot sign this certificate").caused_by(error)
        })?;
        let mut chain = vec![leaf];
        chain.extend_from_slice(self.authority.intermediates());
        Ok(Issued { chain, trust_anchors: self.authority.trust_anchors().to_vec() })
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn trust_anchors(&self) -> Option<&[Certificate]> {
        Some(self.authority.trust_anchors())
    }

    fn fault(&self, now: Timestamp) -> Option<String> {
        self.life.check(now).err()
    }

    fn warning(&self, now: Timestamp) -> Option<String> {
        self.life.warning(now)
    }
}

/// The span in which a CA, all that is above it and its trust anchor hold: the certificates that
/// begin last and end first.
#[derive(Clone, Debug)]
struct CaLife {
    begins_last: Certificate,
    ends_first: Certificate,
}

impl CaLife {
    fn of(authority: &CertificateAuthority) -> Self {
        let own = authority.certificate();
        let top = authority.intermediates().last().unwrap_or(own);
        // Peers need one anchor that holds.
        let anchor = authority
            .trust_anchors()
            .iter()
            .filter(|anchor| *anchor == top || top.is_signed_by(anchor))
            .max_by_key(|anchor| anchor.validity().not_after);
        let chain = || authority.intermediates().iter().chain(anchor).chain([own]);
        Self {
            begins_last: chain().max_by_key(|c| c.validity().not_before).unwrap_or(own).clone(),
            ends_first: chain().min_by_key(|c| c.validity().not_after).unwrap_or(own).clone(),
        }
    }

    /// From when on all of the chain holds.
    fn not_before(&self) -> Timestamp {
        self.begins_last.validity().not_before
    }

    /// Until when all of the chain holds.
    fn not_after(&self) -> Timestamp {
        self.ends_first.validity().not_after
    }

    /// Whether the CA can sign at `now`, or what to do where it cannot.
    fn check(&self, now: Timestamp) -> Result<(), String> {
        if now < self.not_before() {
            return Err(format!(
                "the CA certificate {:?} is valid only from {}, and this node's clock says {now}: \
                 set the clock, or wait",
                self.begins_last.subject(),
                self.not_before(),
            ));
        }
        if now >= self.not_after() {
            return Err(format!(
                "the CA certificate {:?} expired at {}: replace it",
                self.ends_first.subject(),
                self.not_after(),
            ));
        }
        Ok(())
    }

    fn warning(&self, now: Timestamp) -> Option<String> {
        if let Err(message) = self.check(now) {
            return Some(message);
        }
        let Validity { not_before, not_after } = self.ends_first.validity();
        let early = WARN_BEFORE_END.min(between(not_before, not_after) / 3);
        (between(now, not_after) < early).then(|| {
            format!(
                "the CA certificate {:?} expires at {not_after}, and nothing that it signs lives \
                 longer: replace it",
                self.ends_first.subject()
            )
        })
    }
}

impl CaMaterial {
    /// What cert-manager's CA issuer reads from `secret`: `tls.crt`, `tls.key` and perhaps `ca.crt`.
    ///
    /// # Errors
    ///
    /// When one of the first two is missing.
    pub fn from_secret(secret: &SecretObject) -> Result<Self, CaError> {
        let value = |key| {
            let missing = || CaError::MissingValue { secret: secret.to_string(), key };
            secret.get(key).filter(|value| !value.is_empty()).ok_or_else(missing)
        };
        Ok(Self {
            certificates: value("tls.crt")?.to_vec(),
            key: Zeroizing::new(value("tls.key")?.to_vec()),
            anchors: secret.get("ca.crt").filter(|value| !value.is_empty()).map(<[u8]>::to_vec),
        })
    }

    /// Makes the CA and checks that it fits together.
    ///
    /// # Errors
    ///
    /// When a text cannot be read, the key is not the certificate's, or the certificate may not
    /// sign. Validity is looked at when it signs.
    pub fn load(&self) -> Result<CertificateAuthority, CaError> {
        let chain = certificates_from_pem(&self.certificates).map_err(CaError::Certificate)?;
        let anchors = match &self.anchors {
            Some(pem) => certificates_from_pem(pem).map_err(CaError::Anchors)?,
            None => Vec::new(),
        };
        let key = PrivateKey::from_pem(&self.key).map_err(CaError::Key)?;
        Ok(CertificateAuthority::new(chain, anchors, Arc::new(key))?)
    }
}

impl fmt::Debug for CaMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaMaterial")
    }
}

#[cfg(test)]
mod tests;
