//! Key, leaf, intermediates and trust anchors that were checked to belong together.
//!
//! [`Bundle::new`] is where a CA's answer stops being suspect. What it promises of a bundle:
//!
//! - the leaf is for our key, and has every name and extended key usage that was asked for, no
//!   further name, and is a CA only if that was asked for
//! - each certificate is signed by the next, by a CA that may sign that deep, and the last one by a
//!   trust anchor
//! - all of them hold now, and the leaf for more than a tenth of its life to come

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::certificate::SignatureError;
use super::{
    BasicConstraints, Certificate, CertificateError, ExtendedKeyUsage, GeneralName, KeyEncoding,
    KeyError, KeyUsage, PrivateKey, Template, Validity, certificates_from_pem, chain, chain_to_pem,
    pem,
};
use crate::clock::{Timestamp, between};

/// What an issuer returned, unchecked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates in any order; a root among them is moved to the anchors.
    pub chain: Vec<Certificate>,
    /// May be empty where the CA does not say.
    pub trust_anchors: Vec<Certificate>,
}

/// The only thing that is written into a volume.
#[derive(Debug)]
pub struct Bundle {
    key: Arc<PrivateKey>,
    leaf: Certificate,
    intermediates: Vec<Certificate>,
    trust_anchors: Vec<Certificate>,
}

/// What is wrong with a CA's answer, or with a bundle read back.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Nothing came.
    #[error("the issuer returned no certificate")]
    Empty,
    /// A chain so long that putting it in order would take long.
    #[error(
        "the issuer returned a chain of {count} certificates; at most {LONGEST_CHAIN} are accepted"
    )]
    TooMany {
        /// How many came.
        count: usize,
    },
    /// More trust anchors than a volume has room for.
    #[error(
        "the issuer has {count} trust anchors; at most {MOST_TRUST_ANCHORS} are accepted: leave out those that its certificates do not chain to"
    )]
    TooManyAnchors {
        /// How many came.
        count: usize,
    },
    /// The certificate is for another key.
    #[error("the issuer's certificate is for another key than the one asked for")]
    OtherKey,
    /// Names that were asked for are missing.
    #[error("the issuer's certificate lacks {}; check which names the issuer may sign", .names.join(", "))]
    MissingNames {
        /// As in [`Certificate::names`].
        names: Vec<String>,
    },
    /// Names are there that were not asked for.
    #[error("the issuer's certificate holds {}, which nobody asked for", .names.join(", "))]
    ExtraNames {
        /// As in [`Certificate::names`].
        names: Vec<String>,
    },
    /// It is a CA though none was asked for.
    #[error("the issuer's certificate is a CA, which nobody asked for")]
    UnaskedCa,
    /// It is no CA though one was asked for.
    #[error(
        "the issuer's certificate is not a CA; this issuer cannot sign CAs the way it is configured"
    )]
    NotACa,
    /// Extended key usages that were asked for are missing.
    #[error("the issuer's certificate is not good for {}, only for {}; ask for less, or use another issuer", .missing.join(", "), .granted.join(", "))]
    MissingUsages {
        /// Asked for and missing.
        missing: Vec<String>,
        /// What the issuer granted.
        granted: Vec<String>,
    },
    /// No certificate that came with it signed it.
    #[error(
        "the issuer's chain is broken: nothing in it signed {subject:?}, whose issuer is {issuer:?}: {reason}"
    )]
    BrokenChain {
        /// The certificate without issuer.
        subject: String,
        /// Who it says its issuer is.
        issuer: String,
        /// Why the nearest candidate is not it.
        reason: SignatureError,
    },
    /// A certificate in the chain signed another without being allowed to.
    #[error(
        "the issuer's chain is invalid: {subject:?} signed another certificate, but may not: it is not a CA, lacks the key usage cert sign, or its path length is too short"
    )]
    NotAnIssuer {
        /// The one that may not.
        subject: String,
    },
    /// The chain ends elsewhere.
    #[error(
        "the issuer's chain does not lead to any of its trust anchors; it ends with {subject:?}, whose issuer is {issuer:?}"
    )]
    Unanchored {
        /// The last certificate of the chain.
        subject: String,
        /// Who signed it.
        issuer: String,
    },
    /// The leaf or something above it is past its end.
    #[error("the certificate {subject:?} expired at {not_after}")]
    Expired {
        /// Which one.
        subject: String,
        /// Its last second.
        not_after: Timestamp,
    },
    /// The leaf or something above it does not hold yet.
    #[error("the certificate {subject:?} holds from {not_before}: this node's clock is behind the issuer by {} or more; set the node's time", span(*.behind))]
    NotYetValid {
        /// Which one.
        subject: String,
        /// Its first second.
        not_before: Timestamp,
        /// How far away that is.
        behind: Duration,
    },
    /// Little is left of the leaf's life.
    #[error("the certificate expires at {not_after}, with less than a tenth of its life of {} left", span(*.lifetime))]
    NearlyExpired {
        /// Its last second.
        not_after: Timestamp,
        /// From its first to its last second, or what was asked for if that is less.
        lifetime: Duration,
    },
    /// A bundle read back has no leaf.
    #[error("the saved bundle holds no certificate")]
    NoLeaf,
    /// A bundle read back has a key that cannot be read.
    #[error("the saved bundle's key cannot be read")]
    Key(#[from] KeyError),
    /// A bundle read back has a certificate that cannot be read.
    #[error("the saved bundle's certificates cannot be read")]
    Certificate(#[from] CertificateError),
}

impl Bundle {
    /// Checks that `issued` is an answer to what was asked, a certificate from `template` that lasts
    /// `duration`, and orders its chain by signature.
    ///
    /// Subjects are not compared: many a CA drops the common name or adds an organization.
    ///
    /// Where the CA names no trust anchors, they are the roots that came with the chain, or else
    /// the top-most certificate; a self-signed leaf is its own. Where nothing but the leaf came
    /// there are none.
    ///
    /// # Errors
    ///
    /// The first thing that is not as this module's documentation promises.
    pub fn new(
        key: Arc<PrivateKey>,
        issued: Issued,
        template: &Template,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Self, BundleError> {
        let Issued { chain, trust_anchors } = issued;
        if chain.is_empty() {
            return Err(BundleError::Empty);
        }
        if chain.len() > LONGEST_CHAIN {
            return Err(BundleError::TooMany { count: chain.len() });
        }
        if trust_anchors.len() > MOST_TRUST_ANCHORS {
            return Err(BundleError::TooManyAnchors { count: trust_anchors.len() });
        }
        // Some CAs put the root first: the leaf is the one with our key.
        let is_ours =
            |certificate: &&Certificate| certificate.public_key_info() == key.public_key_info();
        let leaf = chain.iter().find(is_ours).ok_or(BundleError::OtherKey)?.clone();
        check_names(&leaf, template)?;
        check_constraints(&leaf, template)?;
        check_usages(&leaf, template)?;
        check_life(&leaf, duration, now)?;
        let (intermediates, trust_anchors) = order(&leaf, &chain, trust_anchors, now)?;
        Ok(Self { key, leaf, intermediates, trust_anchors })
    }

    /// The private key that the leaf is for.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// The certificate that was asked for.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// From the leaf's issuer upwards, without roots.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// The certificates that peers of the same issuer are verified with.
    pub fn trust_anchors(&self) -> &[Certificate] {
        &self.trust_anchors
    }

    /// The leaf's.
    pub fn validity(&self) -> Validity {
        self.leaf.validity()
    }

    /// The same bundle with other trust anchors, for when a CA changes.
    #[must_use]
    pub fn with_trust_anchors(self, trust_anchors: Vec<Certificate>) -> Self {
        Self { trust_anchors: chain::deduplicated(trust_anchors), ..self }
    }

    /// All of it as PEM, for the volume's private state: key, chain, then a marker, then anchors.
    pub fn to_state(&self) -> Zeroizing<Vec<u8>> {
        let key = self.key.to_pem(KeyEncoding::Pkcs8).expect("every key has a PKCS#8 form");
        let chain = chain_to_pem([&self.leaf].into_iter().chain(&self.intermediates));
        let anchors = chain_to_pem(&self.trust_anchors);
        let parts = [key.as_bytes(), chain.as_bytes(), ANCHORS_MARKER, anchors.as_bytes()];
        // Sized beforehand: a buffer that grows leaves copies of the key behind.
        let mut state = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
        parts.iter().for_each(|part| state.extend_from_slice(part));
        state
    }

    /// Reads what [`Bundle::to_state`] wrote, checking that key and leaf match.
    ///
    /// Names, signatures and validity were checked before it was written and are not again.
    ///
    /// # Errors
    ///
    /// A state that is damaged.
    pub fn from_state(state: &[u8]) -> Result<Self, BundleError> {
        let (chain, anchors) = pem::split_once(state, ANCHORS_MARKER).unwrap_or((state, b""));
        let key = PrivateKey::from_pem(chain)?;
        let mut chain = certificates_from_pem(chain)?.into_iter();
        let leaf = chain.next().ok_or(BundleError::NoLeaf)?;
        if leaf.public_key_info() != key.public_key_info() {
            return Err(BundleError::OtherKey);
        }
        let trust_anchors = certificates_from_pem(anchors)?;
        Ok(Self { key: Arc::new(key), leaf, intermediates: chain.collect(), trust_anchors })
    }
}

/// More than any CA sends, and few enough to compare each with each.
const LONGEST_CHAIN: usize = 16;

/// The most trust anchors of one issuer or volume: more than all the roots that browsers trust.
pub const MOST_TRUST_ANCHORS: usize = 200;

/// How far the clocks of node and CA may differ: what issuers commonly backdate by.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// The least part of its life that a leaf must have left.
const LEAST_LIFE_LEFT: u32 = 10;

const ANCHORS_MARKER: &[u8] = b"# trust anchors\n";

/// Every name asked for, and no other; but a CA may repeat the common name among the names.
fn check_names(leaf: &Certificate, template: &Template) -> Result<(), BundleError> {
    let (asked, got) = (&template.subject_alt_names, leaf.subject_alt_names());
    let missing = asked.iter().filter(|name| !got.iter().any(|other| same_name(other, name)));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(BundleError::MissingNames { names: missing });
    }
    let common_name = template.subject.common_name();
    let promoted = |name: &GeneralName| {
        common_name.is_some_and(|common_name| name.value().eq_ignore_ascii_case(common_name))
    };
    let extra = got.iter().filter(|name| !asked.iter().any(|other| same_name(other, name)));
    let extra = extra.filter(|name| !promoted(name)).map(ToString::to_string);
    let extra: Vec<_> = extra.chain(leaf.other_names().iter().cloned()).collect();
    if !extra.is_empty() {
        return Err(BundleError::ExtraNames { names: extra });
    }
    Ok(())
}

/// Equality, except for the case of what DNS and URIs compare without it.
fn same_name(a: &GeneralName, b: &GeneralName) -> bool {
    match (a, b) {
        (GeneralName::Dns(a), GeneralName::Dns(b))
        | (GeneralName::Email(a), GeneralName::Email(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a == b,
    }
}

fn check_constraints(leaf: &Certificate, template: &Template) -> Result<(), BundleError> {
    match (template.basic_constraints, leaf.is_ca()) {
        (BasicConstraints::EndEntity, true) => Err(BundleError::UnaskedCa),
        (BasicConstraints::Ca { .. }, false) => Err(BundleError::NotACa),
        _ => Ok(()),
    }
}

/// A certificate without the extension is good for everything. Key usages are left to the CA: which
/// of them a key can have depends on its algorithm, and CAs drop the others.
fn check_usages(leaf: &Certificate, template: &Template) -> Result<(), BundleError> {
    let granted = &leaf.usages().extended;
    if granted.is_empty() || granted.contains(&ExtendedKeyUsage::Any) {
        return Ok(());
    }
    let missing = template.usages.extended.iter().filter(|usage| !granted.contains(usage));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let granted = granted.iter().map(ToString::to_string).collect();
    Err(BundleError::MissingUsages { missing, granted })
}

/// What a CA backdates is no part of the life that was asked for.
fn check_life(leaf: &Certificate, asked: Duration, now: Timestamp) -> Result<(), BundleError> {
    check_holds(leaf, now)?;
    let Validity { not_before, not_after } = leaf.validity();
    let lifetime = between(not_before, not_after).min(asked);
    if between(now, not_after) < lifetime / LEAST_LIFE_LEFT {
        return Err(BundleError::NearlyExpired { not_after, lifetime });
    }
    Ok(())
}

fn check_holds(certificate: &Certificate, now: Timestamp) -> Result<(), BundleError> {
    let Validity { not_before, not_after } = certificate.validity();
    if not_after < now {
        return Err(BundleError::Expired { subject: certificate.label(), not_after });
    }
    let behind = between(now, not_before);
    if behind > CLOCK_SKEW {
        return Err(BundleError::NotYetValid { subject: certificate.label(), not_before, behind });
    }
    Ok(())
}

/// The intermediates from the leaf upwards, and the trust anchors.
fn order(
    leaf: &Certificate,
    chain: &[Certificate],
    trust_anchors: Vec<Certificate>,
    now: Timestamp,
) -> Result<(Vec<Certificate>, Vec<Certificate>), BundleError> {
    let intermediates = chain::above(leaf, chain);
    for (below, issuer) in intermediates.iter().enumerate() {
        check_holds(issuer, now)?;
        if !may_sign(issuer, below) {
            return Err(BundleError::NotAnIssuer { subject: issuer.label() });
        }
    }
    let given = !trust_anchors.is_empty();
    let candidates = chain::deduplicated(if given {
        trust_anchors
    } else {
        chain.iter().filter(|certificate| certificate.is_self_signed()).cloned().collect()
    });
    let anchors: Vec<_> = chain::anchors(leaf, &intermediates, &candidates).collect();
    if let [first, ..] = anchors[..] {
        // A root that was renewed with the same key may be there twice, once expired.
        if !anchors.iter().any(|anchor| check_holds(anchor, now).is_ok()) {
            check_holds(first, now)?;
        }
        let found = chain::deduplicated(anchors.into_iter().cloned().collect());
        return Ok((intermediates, if given { candidates } else { found }));
    }
    match intermediates.last() {
        top if given => {
            let top = top.unwrap_or(leaf);
            Err(BundleError::Unanchored { subject: top.label(), issuer: top.issuer() })
        }
        Some(top) => {
            let trust_anchors = vec![top.clone()];
            Ok((intermediates, trust_anchors))
        }
        None if chain.len() > 1 => Err(broken(leaf, chain)),
        None => Ok((intermediates, Vec::new())),
    }
}

fn may_sign(issuer: &Certificate, intermediates_below: usize) -> bool {
    let usages = &issuer.usages().key;
    let reaches = match issuer.basic_constraints() {
        BasicConstraints::EndEntity => false,
        BasicConstraints::Ca { path_len } => {
            path_len.is_none_or(|length| usize::from(length) >= intermediates_below)
        }
    };
    reaches && (usages.is_empty() || usages.contains(&KeyUsage::CertSign))
}

fn broken(leaf: &Certificate, chain: &[Certificate]) -> BundleError {
    let failures = chain.iter().filter_map(|candidate| leaf.check_signed_by(candidate).err());
    let reason = failures.max().unwrap_or(SignatureError::OtherIssuer);
    BundleError::BrokenChain { subject: leaf.label(), issuer: leaf.issuer(), reason }
}

fn span(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests;
