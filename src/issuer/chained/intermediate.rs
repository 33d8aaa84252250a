//! One intermediate: what an upstream answered, held against what was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use humantime::format_duration;

use crate::clock::{Clock, Timestamp, between};
use crate::issuer::{Ca, CaLimits};
use crate::spec::object::ChainedSpec;
use crate::x509::{
    AuthorityInformation, BasicConstraints, Bundle, BundleError, CertificateAuthority, GeneralName,
    Issued, KeyUsage, NameConstraints, PrivateKey, SignError, Template, Validity,
};

/// An intermediate CA with its key.
#[derive(Debug)]
pub(super) struct Intermediate {
    pub(super) ca: Ca,
    /// The last second of its life.
    pub(super) not_after: Timestamp,
    /// When the next one is to be asked for.
    pub(super) rotate_at: Timestamp,
    /// From when on it is too near to its end to sign anything useful.
    spent_at: Timestamp,
    used: AtomicBool,
}

/// Why an answer is no intermediate.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntermediateError {
    /// Key, names, signatures or validity are not as they should be.
    #[error(transparent)]
    Answer(#[from] BundleError),
    /// A certificate of its own key serves nobody who does not know it yet.
    #[error(
        "it is signed by its own key, so each node would be a root: name an issuer with a CA in issuerRef"
    )]
    SelfSigned,
    /// Another path length than zero.
    #[error(
        "its path length is {0} where zero was asked for, so it could sign further CAs: let the issuer keep what the request says, or set the path length itself"
    )]
    PathLength(String),
    /// No key usage extension, or one without `cert sign`.
    #[error("its key usage does not include cert sign: let the issuer allow it")]
    Usage,
    /// Names may be signed that were not to be.
    #[error("its name constraints are looser than those asked for: asked for {asked}, got {got}")]
    NameConstraints {
        /// What was asked for.
        asked: String,
        /// What came.
        got: String,
    },
    /// A longer life than asked for.
    #[error(
        "it holds for {}, longer than the duration of {} in the spec: let the issuer sign shorter ones, or raise duration",
        format_duration(*.got),
        format_duration(*.asked)
    )]
    TooLong {
        /// What came.
        got: Duration,
        /// What was asked for.
        asked: Duration,
    },
    /// It cannot sign.
    #[error(transparent)]
    Unfit(#[from] SignError),
}

/// A tenth of its life, and at most this, before its end an intermediate signs no more.
const SPENT_BEFORE_END: Duration = Duration::from_secs(3600);

/// Issuers round, and backdate: this much above the duration is not a longer life.
const SLACK: Duration = Duration::from_secs(3600);

impl Intermediate {
    /// Checks `issued`, the answer for `key` and `template` that came now: beside what
    /// [`Bundle::new`] promises, it has a path length of zero, may sign, allows no name that the
    /// spec does not, and lives no longer than the spec says.
    ///
    /// Answers also what it is made of, to be kept across restarts.
    pub(super) fn new(
        key: Arc<PrivateKey>,
        issued: Issued,
        template: &Template,
        spec: &ChainedSpec,
        clock: &Clock,
    ) -> Result<(Self, Bundle), IntermediateError> {
        let now = clock.now();
        let template = with_names_of(&issued, &key, template);
        let bundle = Bundle::new(Arc::clone(&key), issued, &template, spec.duration, now)?;
        let certificate = bundle.leaf();
        if certificate.is_self_signed() {
            return Err(IntermediateError::SelfSigned);
        }
        match certificate.basic_constraints() {
            BasicConstraints::Ca { path_len: Some(0) } => {}
            BasicConstraints::Ca { path_len: Some(other) } => {
                return Err(IntermediateError::PathLength(other.to_string()));
            }
            _ => return Err(IntermediateError::PathLength("not limited".to_owned())),
        }
        if !certificate.usages().key.contains(&KeyUsage::CertSign) {
            return Err(IntermediateError::Usage);
        }
        let free = NameConstraints::default();
        let (asked, got) = (&spec.name_constraints, certificate.name_constraints());
        let got = got.unwrap_or(&free);
        if !got.is_within(asked) {
            let (asked, got) = (asked.to_string(), got.to_string());
            return Err(IntermediateError::NameConstraints { asked, got });
        }
        let Validity { not_before, not_after } = certificate.validity();
        let left = between(now, not_after);
        if left > spec.duration + SLACK {
            return Err(IntermediateError::TooLong { got: left, asked: spec.duration });
        }
        let chain = std::iter::once(certificate).chain(bundle.intermediates()).cloned().collect();
        let authority = CertificateAuthority::new(chain, bundle.trust_anchors().to_vec(), key)?;
        let longest = spec.max_duration.unwrap_or(spec.duration).min(spec.duration);
        let limits =
            CaLimits { max_duration: Some(longest), backdate: spec.backdate, path_len: None };
        let information = AuthorityInformation::default();
        let life = between(not_before, not_after).min(spec.duration);
        let before_end = spec.renew_before.filter(|before| *before < life).unwrap_or(life / 2);
        let intermediate = Self {
            ca: Ca::new(authority, information, limits, clock.clone()),
            not_after,
            rotate_at: not_after - before_end,
            spent_at: not_after - SPENT_BEFORE_END.min(life / 10),
            used: AtomicBool::new(false),
        };
        Ok((intermediate, bundle))
    }

    /// Whether it can sign something that is of use.
    pub(super) fn is_good(&self, now: Timestamp) -> bool {
        now < self.spent_at
    }

    /// Notes that an order wants it; answers whether this is the first.
    pub(super) fn use_first(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

/// `template` with those of its names that the certificate for `key` has: they are what an ACME
/// server orders by, and say nothing of what a CA may sign, so many leave them out.
fn with_names_of(issued: &Issued, key: &PrivateKey, template: &Template) -> Template {
    let own = issued.chain.iter().find(|it| it.public_key_info() == key.public_key_info());
    let has = |name: &GeneralName| own.is_some_and(|own| own.subject_alt_names().contains(name));
    let names = template.subject_alt_names.iter().filter(|name| has(name)).cloned();
    Template { subject_alt_names: names.collect(), ..template.clone() }
}
