//! Keeps an intermediate at hand: asks the upstream, replaces in time, and backs off.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use data_encoding::HEXLOWER;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use zeroize::Zeroizing;

use super::intermediate::Intermediate;
use crate::clock::{Clock, Timestamp, between};
use crate::error::with_causes;
use crate::issuer::{
    Entry, HandleInMemory, HandleStore, IssueError, IssueErrorKind, Issuer, IssuerKey, Issuers,
    Order, Requester, Warnings, WeakIssuers,
};
use crate::spec::object::{ChainedSpec, GROUP};
use crate::spec::request::CertificateSpec;
use crate::spec::tokens::PodTokens;
use crate::spec::volume::PodRef;
use crate::x509::{
    BasicConstraints, Bundle, CertificationRequest, DistinguishedName, GeneralName, Issued,
    KeyEncoding, KeyError, KeyUsage, KeyUsages, PrivateKey, Template,
};

/// The intermediates of one issuer, one after the other.
#[derive(Debug)]
pub(super) struct Keeper {
    issuer: IssuerKey,
    node_name: String,
    /// What is asked of the upstream.
    wanted: CertificateSpec,
    spec: ChainedSpec,
    /// Under which names an intermediate and an order are kept.
    kept: [String; 2],
    clock: Clock,
    state: watch::Sender<State>,
    /// The intermediate at hand is used for the first time.
    first_use: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    current: Option<Arc<Intermediate>>,
    /// Why there is no other, since the last attempt.
    failure: Option<Failure>,
    /// Whether the upstream is being asked now.
    asking: bool,
}

#[derive(Clone, Debug)]
struct Failure {
    kind: IssueErrorKind,
    message: String,
    retry_at: Timestamp,
}

/// What one intermediate is asked for with: the same until it is there, also in the next process.
#[derive(Debug)]
struct Attempt {
    key: Arc<PrivateKey>,
    request: CertificationRequest,
    handle: KeptHandle,
}

/// The upstream's handle on an order, kept with the key that the order is for. Prints nothing of it.
struct KeptHandle {
    /// Where it is kept, and as what.
    store: WeakIssuers,
    name: String,
    /// What stands before it there: the key.
    head: Zeroizing<Vec<u8>>,
    handle: HandleInMemory,
}

/// An order does not wait longer for an upstream that failed before: somebody shall be told.
const PATIENCE: Duration = Duration::from_secs(15);

/// An upstream decides within this, or is asked again.
const LONGEST_ASK: Duration = Duration::from_secs(900);

/// Nodes that were started together part from each other by up to this part of the time until the
/// rotation.
const SPREAD_DIVISOR: u32 = 20;

impl Keeper {
    /// The names of the intermediate itself are for who built the spec to check.
    pub(super) fn new(
        issuer: IssuerKey,
        uid: Option<&str>,
        spec: ChainedSpec,
        node_name: &str,
        clock: Clock,
    ) -> Self {
        let identity = hash(&format!("{issuer} {uid:?} {spec:?} {node_name}"));
        let kept = ["intermediate", "order"].map(|what| format!("{what}-{identity}"));
        let names = spec.names_on(node_name).unwrap_or_default();
        let wanted = CertificateSpec {
            issuer: spec.upstream.clone(),
            template: Template {
                subject: match names.first() {
                    // An ACME server signs no common name that is not among the names.
                    Some(name) => common_name(&name.value()),
                    None => subject(&issuer.name, node_name),
                },
                subject_alt_names: names,
                usages: KeyUsages {
                    key: vec![KeyUsage::CertSign, KeyUsage::CrlSign],
                    extended: Vec::new(),
                },
                basic_constraints: BasicConstraints::Ca { path_len: Some(0) },
                name_constraints: spec.name_constraints.clone(),
            },
            duration: spec.duration,
            key_algorithm: spec.key_algorithm,
            renew_before: None,
            reuse_private_key: false,
        };
        Self {
            issuer,
            node_name: node_name.to_owned(),
            wanted,
            spec,
            kept,
            clock,
            state: watch::Sender::default(),
            first_use: Notify::new(),
        }
    }

    /// An intermediate that can sign, or why there is none.
    pub(super) async fn intermediate(&self) -> Result<Arc<Intermediate>, IssueError> {
        let mut state = self.state.subscribe();
        loop {
            let failure = {
                let State { current, failure, asking } = &*state.borrow_and_update();
                if let Some(current) = current {
                    if current.use_first() {
                        self.first_use.notify_one();
                    }
                    if current.is_good(self.clock.now()) {
                        return Ok(Arc::clone(current));
                    }
                }
                match failure {
                    Some(failure) if !asking => return Err(self.error(failure)),
                    failure => failure.clone(),
                }
            };
            let changed = timeout(PATIENCE, state.changed()).await;
            if let (Err(_), Some(failure)) = (changed, failure) {
                return Err(self.error(&failure));
            }
        }
    }

    /// Whether the upstream is there, and this issuer may have a CA of it. One of another API group
    /// shows only when it is asked.
    pub(super) fn check(&self, issuers: &Issuers) -> Result<(), IssueError> {
        match self.spec.upstream.group == GROUP {
            true => self.allowed(self.upstream(issuers)).map(drop),
            false => Ok(()),
        }
    }

    /// What an operator should do about the intermediate.
    pub(super) fn warning(&self, now: Timestamp) -> Option<String> {
        self.fault(now).or_else(|| {
            let state = self.state.borrow();
            let (current, failure) = (state.current.as_ref()?, state.failure.as_ref()?);
            Some(format!(
                "its intermediate CA ends at {}, and there is no next one: {}",
                current.not_after, failure.message
            ))
        })
    }

    /// Why there is nothing to sign with.
    pub(super) fn fault(&self, now: Timestamp) -> Option<String> {
        let state = self.state.borrow();
        let failure = &state.failure.as_ref()?.message;
        let has_good = state.current.as_ref().is_some_and(|current| current.is_good(now));
        (!has_good).then(|| format!("it has no intermediate CA to sign with: {failure}"))
    }

    /// Brings intermediates for as long as somebody looks at the issuers.
    pub(super) async fn run(self: Arc<Self>, issuers: WeakIssuers) {
        let begins = self.state.borrow().current.is_none();
        let issuers_now = issuers.upgrade().filter(|_| begins);
        if let Some(kept) = issuers_now.and_then(|issuers| self.restore(&issuers)) {
            self.become_current(kept);
        }
        loop {
            self.wait_for_rotation().await;
            let mut attempt = None;
            let mut failures = 0;
            loop {
                let Some(issuers) = issuers.upgrade() else { return };
                let seen = self.upstream(&issuers);
                self.state.send_modify(|state| state.asking = true);
                let asked = timeout(LONGEST_ASK, self.ask(&mut attempt, seen.clone(), &issuers));
                let asked = asked.await.unwrap_or_else(|_| {
                    let minutes = LONGEST_ASK.as_secs() / 60;
                    let message =
                        format!("{} has not answered in {minutes} minutes", self.spec.upstream);
                    Err(IssueError::new(IssueErrorKind::Unavailable, message))
                });
                match asked {
                    Ok((intermediate, bundle)) => {
                        // Without it the next process asks for one of its own.
                        let _ = issuers.keep(&self.kept[0], &bundle.to_state());
                        if let Some(attempt) = &attempt {
                            attempt.handle.forget();
                        }
                        self.become_current(intermediate);
                        break;
                    }
                    Err(error) => {
                        let wait = self.backoff(&error, failures);
                        failures = failures.saturating_add(1);
                        self.note(&error, wait);
                        if !self.pause(wait, seen, issuers).await {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn become_current(&self, intermediate: Intermediate) {
        let current = Some(Arc::new(intermediate));
        self.state.send_replace(State { current, ..State::default() });
    }

    /// The intermediate of an earlier process, if it is still what the spec asks for.
    fn restore(&self, issuers: &Issuers) -> Option<Intermediate> {
        let bundle = Bundle::from_state(&issuers.kept(&self.kept[0]).ok()??).ok()?;
        let chain = std::iter::once(bundle.leaf()).chain(bundle.intermediates()).cloned().collect();
        let issued = Issued { chain, trust_anchors: bundle.trust_anchors().to_vec() };
        let key = Arc::clone(bundle.key());
        let made =
            Intermediate::new(key, issued, &self.wanted.template, &self.spec, &self.clock).ok()?;
        Some(made.0).filter(|intermediate| intermediate.is_good(self.clock.now()))
    }

    pub(super) fn keeps(&self) -> &[String] {
        &self.kept
    }

    /// Returns when the next intermediate is to be asked for: in time before the end of the one
    /// that is there, unless nobody uses it.
    async fn wait_for_rotation(&self) {
        let Some(current) = self.state.borrow().current.clone() else { return };
        let now = self.clock.now();
        let spread = random_part(between(now, current.rotate_at) / SPREAD_DIVISOR);
        self.clock.sleep_between(now, current.rotate_at - spread).await;
        while !current.was_used() {
            self.first_use.notified().await;
        }
    }

    /// Who signs intermediates, if it is there.
    fn upstream(&self, issuers: &Issuers) -> Option<Entry> {
        issuers.get(&self.spec.upstream, self.issuer.namespace.as_deref().unwrap_or_default())
    }

    async fn ask(
        &self,
        attempt: &mut Option<Attempt>,
        upstream: Option<Entry>,
        issuers: &Issuers,
    ) -> Result<(Intermediate, Bundle), IssueError> {
        let upstream = self.allowed(upstream)?;
        let attempt = match attempt {
            Some(attempt) => attempt,
            none => none.insert(self.attempt(issuers).await?),
        };
        let order = Order {
            requester: Requester::Node { name: &self.node_name, issuer: &self.issuer },
            spec: &self.wanted,
            request: &attempt.request,
            annotations: &BTreeMap::new(),
            key: &attempt.key,
            tokens: &PodTokens::default(),
            // There is no pod whose owner could be told; what matters of them is checked below.
            warnings: &Warnings::default(),
            previous: None,
            handle: &attempt.handle,
            issuers,
        };
        let issued = upstream.issue(order).await.map_err(|error| match error.kind {
            // What is asked for here is what this issuer's operator wrote.
            IssueErrorKind::Request => IssueError { kind: IssueErrorKind::Config, ..error },
            _ => error,
        })?;
        let key = Arc::clone(&attempt.key);
        Intermediate::new(key, issued, &self.wanted.template, &self.spec, &self.clock).map_err(
            |error| {
                let upstream = &self.spec.upstream;
                let message = format!(
                    "what {upstream} signed is no intermediate CA as asked for and is not used"
                );
                IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
            },
        )
    }

    /// The upstream, if it is ready and this issuer may have a CA of it.
    ///
    /// Whoever writes an issuer for the whole cluster, or one beside its upstream in the same
    /// namespace, could as well write the upstream: naming it is enough. Whoever writes one for a
    /// namespace has a CA of a `ClusterIssuer` only if that one's policy gives CAs to the namespace.
    fn allowed(&self, upstream: Option<Entry>) -> Result<Arc<dyn Issuer>, IssueError> {
        let reference = &self.spec.upstream;
        let config = |message| IssueError::new(IssueErrorKind::Config, message);
        let Entry { policy, issuer } = upstream.ok_or_else(|| {
            config(format!("there is no {reference}, which is to sign the intermediate CA; create it, or correct issuerRef"))
        })?;
        let of_another = reference.group == GROUP && reference.kind == "ClusterIssuer";
        if let (Some(namespace), Some(policy), true) = (&self.issuer.namespace, policy, of_another)
        {
            let asking = PodRef {
                namespace: namespace.clone(),
                name: String::new(),
                uid: String::new(),
                service_account: String::new(),
            };
            // The subject is ours and says nothing that a rule would have to grant.
            let template = Template {
                subject: DistinguishedName::default(),
                usages: KeyUsages::default(),
                ..self.wanted.template.clone()
            };
            let asked = CertificateSpec { template, ..self.wanted.clone() };
            policy.check(&asking, None, &asked).map_err(|_| {
                let names = &asked.template.subject_alt_names;
                let names: Vec<_> = names.iter().map(GeneralName::value).collect();
                let names = match names.is_empty() {
                    true => String::new(),
                    false => format!("\n  dnsNames: ['{}']", names.join("', '")),
                };
                let message = format!(
                    "the policy of {reference} gives no CA to issuers of namespace {namespace}; add \
                     this rule to it, with no limits that exclude this request:\n\
                     - namespaces: [{namespace}]\n  isCA: true{names}"
                );
                IssueError::new(IssueErrorKind::Denied, message)
            })?;
        }
        issuer.map_err(|reason| {
            config(format!("{reference}, which signs the intermediate CA, is not ready: {reason}"))
        })
    }

    /// The key and the order of an earlier process, or a new key; and the request for it.
    async fn attempt(&self, issuers: &Issuers) -> Result<Attempt, IssueError> {
        let (key, handle) = match self.left_order(issuers) {
            Some((key, handle)) => (key, Some(handle)),
            None => (self.new_key().await?, None),
        };
        let handle = KeptHandle {
            store: issuers.downgrade(),
            name: self.kept[1].clone(),
            head: head_of_order(&key),
            handle: HandleInMemory(Mutex::new(handle)),
        };
        let key = Arc::new(key);
        let request = CertificationRequest::new(&self.wanted.template, &key).map_err(|error| {
            IssueError::new(IssueErrorKind::Config, "the certification request cannot be made")
                .caused_by(error)
        })?;
        Ok(Attempt { key, request, handle })
    }

    async fn new_key(&self) -> Result<PrivateKey, IssueError> {
        let algorithm = self.spec.key_algorithm;
        let node = |error: Box<dyn std::error::Error + Send + Sync>| {
            IssueError::new(IssueErrorKind::Node, "no private key could be made").caused_by(error)
        };
        let made = tokio::task::spawn_blocking(move || PrivateKey::generate(algorithm)).await;
        made.map_err(|error| node(error.into()))?.map_err(|error: KeyError| node(error.into()))
    }

    /// The key and the handle of an order that an earlier process did not come to the end of.
    fn left_order(&self, issuers: &Issuers) -> Option<(PrivateKey, String)> {
        let rest = issuers.kept(&self.kept[1]).ok()??;
        let end = rest.windows(END_OF_KEY.len()).position(|window| window == END_OF_KEY)?;
        let key = PrivateKey::from_pem(&rest[..end]).ok()?;
        let handle = std::str::from_utf8(&rest[end + END_OF_KEY.len()..]).ok()?;
        Some((key, handle.to_owned()))
    }

    /// Doubles from a first wait up to a cap, cut by up to half at random, so that the nodes of a
    /// cluster do not come back together. What the upstream asked for is a floor.
    fn backoff(&self, error: &IssueError, failures: u32) -> Duration {
        let seconds = Duration::from_secs;
        let now = self.clock.now();
        let current = self.state.borrow().current.clone();
        let left = current.map(|current| between(now, current.not_after)).unwrap_or_default();
        let (first, cap) = match error.kind {
            IssueErrorKind::Pending => (seconds(2), seconds(30)),
            IssueErrorKind::Denied => (seconds(60), seconds(3600)),
            // Pods wait.
            _ if left.is_zero() => (seconds(1), seconds(60)),
            _ => (seconds(30), (left / 8).clamp(seconds(60), seconds(3600))),
        };
        let full = first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(cap);
        let floor = error.retry_after.unwrap_or_default().min(seconds(86_400));
        (full - random_part(full / 2)).max(floor).max(seconds(1))
    }

    /// Lets everybody know why there is no new intermediate.
    fn note(&self, error: &IssueError, wait: Duration) {
        let retry_at = self.clock.now() + wait;
        let failure = Failure { kind: error.kind, message: with_causes(error), retry_at };
        self.state.send_modify(|state| {
            state.failure = Some(failure);
            state.asking = false;
        });
    }

    /// Waits, but no longer than until the upstream is another than `seen`; answers whether anybody
    /// looks at the issuers still.
    async fn pause(&self, wait: Duration, seen: Option<Entry>, mut issuers: Issuers) -> bool {
        /// Between two looks at whether it was for nobody.
        const STEP: Duration = Duration::from_secs(30);
        let deadline = Instant::now() + wait;
        let mut over = pin!(sleep_until(deadline));
        while !issuers.is_last() {
            tokio::select! {
                () = &mut over => return true,
                () = sleep_until(Instant::now() + STEP) => {}
                () = issuers.changed() => {
                    let own = self.spec.upstream.group == GROUP;
                    if own && !same(&seen, &self.upstream(&issuers)) {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn error(&self, failure: &Failure) -> IssueError {
        let wait = between(self.clock.now(), failure.retry_at);
        let message = format!("this node has no intermediate CA to sign with: {}", failure.message);
        IssueError { retry_after: Some(wait), ..IssueError::new(failure.kind, message) }
    }
}

/// What stands before the handle of an order: its key.
fn head_of_order(key: &PrivateKey) -> Zeroizing<Vec<u8>> {
    let pem = key.to_pem(KeyEncoding::Pkcs8).expect("every key has a PKCS#8 form");
    // Sized beforehand: a buffer that grows leaves copies of the key behind.
    let mut kept = Zeroizing::new(Vec::with_capacity(pem.len() + END_OF_KEY.len()));
    kept.extend_from_slice(pem.as_bytes());
    kept.extend_from_slice(END_OF_KEY);
    kept
}

/// Parts the key of an order from its handle.
const END_OF_KEY: &[u8] = b"# handle\n";

impl HandleStore for KeptHandle {
    fn load(&self) -> Option<String> {
        self.handle.load()
    }

    fn save(&self, handle: &str) -> std::io::Result<()> {
        self.handle.save(handle)?;
        let Some(issuers) = self.store.upgrade() else { return Ok(()) };
        let mut kept = Zeroizing::new(Vec::with_capacity(self.head.len() + handle.len()));
        kept.extend_from_slice(&self.head);
        kept.extend_from_slice(handle.as_bytes());
        issuers.keep(&self.name, &kept)
    }
}

impl fmt::Debug for KeptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptHandle").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl KeptHandle {
    /// There is no order any more.
    fn forget(&self) {
        if let (Some(issuers), Some(_)) = (self.store.upgrade(), self.load()) {
            // What stays is for a key that has its certificate: the next process orders with it
            // once more, which does no harm.
            let _ = issuers.keep(&self.name, b"");
        }
    }
}

/// For people who look at a chain; what tells intermediates apart is their key identifier.
pub(super) fn subject(issuer: &str, node: &str) -> DistinguishedName {
    /// RFC 5280's upper bound for common names.
    const LONGEST: usize = 64;
    let mut name = format!("certmount {issuer} {node}");
    while name.len() > LONGEST {
        name.pop();
    }
    common_name(name.trim_end())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::default();
    if subject.push("CN", name).is_err() {
        subject.push("CN", "certmount").expect("a short ASCII name");
    }
    subject
}

fn same(before: &Option<Entry>, after: &Option<Entry>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before.is_same(after),
        (None, None) => true,
        _ => false,
    }
}

/// SHA-256 in hexadecimal.
fn hash(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    HEXLOWER.encode(hash.as_ref())
}

/// A part of `span` by chance.
fn random_part(span: Duration) -> Duration {
    let mut random = [0; 4];
    rand::fill(&mut random).expect("the operating system has random bytes");
    span.mul_f64(f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX))
}
