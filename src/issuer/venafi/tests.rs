use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::*;
use crate::issuer::HandleInMemory;
use crate::issuer::fixture::Asking;
use crate::issuer::{HandleStore, IssuerKey, Warnings};
use crate::spec::fixture;
use crate::spec::request::CertificateSpec;
use crate::spec::volume::{PodRef, VolumeId};
use crate::x509::{DistinguishedName, GeneralName, KeyAlgorithm, PrivateKey, self_sign};

/// A service that has the answers of a test, in order.
#[derive(Clone, Debug, Default)]
struct Script {
    progress: Arc<Mutex<VecDeque<Progress>>>,
    requests: Arc<Mutex<usize>>,
}

#[async_trait]
impl Service for Script {
    fn label(&self) -> String {
        "https://tpp.example/ shop".to_owned()
    }

    async fn request(&self, _: &Order<'_>, _: Keep<'_>) -> Result<String, IssueError> {
        let mut requests = self.requests.lock().unwrap();
        *requests += 1;
        Ok(format!("id-{requests}"))
    }

    async fn retrieve(&self, _: &str) -> Result<Progress, IssueError> {
        Ok(self.progress.lock().unwrap().pop_front().expect("the script goes on"))
    }

    async fn probe(&self) -> Result<(), IssueError> {
        Ok(())
    }

    fn warning(&self, _: Timestamp) -> Option<String> {
        None
    }
}

/// One volume: what its task keeps.
pub(super) struct Volume {
    pub(super) id: VolumeId,
    pub(super) pod: PodRef,
    pub(super) spec: CertificateSpec,
    pub(super) annotations: BTreeMap<String, String>,
    key: Arc<PrivateKey>,
    handle: HandleInMemory,
    warnings: Warnings,
}

impl Volume {
    pub(super) fn new(pod: &str) -> Self {
        let mut spec = fixture::spec(7200);
        spec.issuer = fixture::cluster_issuer("venafi");
        spec.template.subject = DistinguishedName::from_rfc4514("CN=web").unwrap();
        spec.template.subject_alt_names = vec![GeneralName::dns("*.web.example").unwrap()];
        Self {
            id: VolumeId::of_inline_volume(pod, "tls"),
            pod: PodRef {
                namespace: "shop".to_owned(),
                name: pod.to_owned(),
                uid: pod.to_owned(),
                service_account: "web".to_owned(),
            },
            spec,
            annotations: BTreeMap::new(),
            key: Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap()),
            handle: HandleInMemory::default(),
            warnings: Warnings::default(),
        }
    }

    /// What `ask` makes of the volume's order.
    pub(super) fn order<T>(&self, ask: impl FnOnce(Order<'_>) -> T) -> T {
        self.order_of(Requester::Volume { id: &self.id, pod: &self.pod }, ask)
    }

    /// The same for another requester.
    pub(super) fn order_of<T>(
        &self,
        requester: Requester<'_>,
        ask: impl FnOnce(Order<'_>) -> T,
    ) -> T {
        let asking = Asking::new(&self.spec, Arc::clone(&self.key));
        ask(Order {
            requester,
            annotations: &self.annotations,
            warnings: &self.warnings,
            handle: &self.handle,
            ..asking.order()
        })
    }

    fn attempt(&self, script: &Script) -> Result<Issued, IssueError> {
        let issuer = Venafi(Box::new(script.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        self.order(|order| runtime.block_on(issuer.issue(order)))
    }

    /// A certificate for the volume's key.
    fn certificate(&self) -> Certificate {
        let begin = "2026-01-01T00:00:00Z".parse().unwrap();
        let validity = Validity { not_before: begin, not_after: begin + self.spec.duration };
        self_sign(&self.spec.template, &self.key, validity, &Default::default()).unwrap()
    }
}

impl Script {
    fn of(progress: impl IntoIterator<Item = Progress>) -> Self {
        let progress = Arc::new(Mutex::new(progress.into_iter().collect()));
        Self { progress, requests: Arc::default() }
    }

    fn then(self, progress: impl IntoIterator<Item = Progress>) -> Self {
        self.progress.lock().unwrap().extend(progress);
        self
    }

    fn requests(&self) -> usize {
        *self.requests.lock().unwrap()
    }
}

fn pending() -> Progress {
    Progress::Pending("Post CSR".to_owned())
}

fn failed(again: bool) -> Progress {
    Progress::Failed { reason: "CA is offline".to_owned(), again }
}

#[test]
fn what_takes_a_moment_is_waited_for_and_what_takes_long_is_told() {
    let volume = Volume::new("web-0");
    let chain = vec![volume.certificate()];
    let script = Script::of([pending(), pending(), Progress::Issued(chain.clone())]);
    assert_eq!(volume.attempt(&script).unwrap().chain, chain);
    assert_eq!(volume.handle.load().as_deref(), Some(""), "what is decided is forgotten");

    let script = Script::of((0..5).map(|_| pending()));
    let error = volume.attempt(&script).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (IssueErrorKind::Pending, "Post CSR"));
    // The next attempts look once each.
    for _ in 0..3 {
        let script = script.clone().then([pending()]);
        assert_eq!(volume.attempt(&script).unwrap_err().kind, IssueErrorKind::Pending);
    }
    assert_eq!(script.requests(), 1);
    let script = script.then([Progress::Issued(vec![volume.certificate()])]);
    volume.attempt(&script).unwrap();
    assert_eq!(script.requests(), 1);
}

#[test]
fn what_is_there_of_an_older_key_or_not_at_all_is_asked_for() {
    let (volume, other) = (Volume::new("web-0"), Volume::new("web-0"));
    for before in [Progress::Issued(vec![other.certificate()]), Progress::Unknown] {
        volume.handle.save("https://tpp.example/ shop\nid-0").unwrap();
        let chain = vec![volume.certificate()];
        let script = Script::of([before, Progress::Issued(chain.clone())]);
        assert_eq!(volume.attempt(&script).unwrap().chain, chain);
        assert_eq!(script.requests(), 1);
    }
    // A handle of another zone is none.
    volume.handle.save("https://tpp.example/ shopping\nid-0").unwrap();
    let script = Script::of([Progress::Issued(vec![volume.certificate()])]);
    volume.attempt(&script).unwrap();
    assert_eq!(script.requests(), 1);
}

#[test]
fn failures_cost_two_requests_and_rejections_one() {
    let volume = Volume::new("web-0");
    let script = Script::of([failed(true), failed(true)]);
    let error = volume.attempt(&script).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (IssueErrorKind::Denied, "CA is offline"));
    assert_eq!(script.requests(), 2);

    let script = Script::of([failed(false)]);
    assert_eq!(volume.attempt(&script).unwrap_err().kind, IssueErrorKind::Denied);
    assert_eq!(script.requests(), 1);

    let script = Script::of([Progress::Unknown, Progress::Unknown]);
    assert_eq!(volume.attempt(&script).unwrap_err().kind, IssueErrorKind::BadResponse);
    assert_eq!(script.requests(), 2);
}

#[test]
fn a_life_that_is_cut_short_is_told() {
    let mut volume = Volume::new("web-0");
    let chain = vec![volume.certificate()];
    volume.order(|order| assert_eq!(shortened(&order, &chain), None));
    volume.spec.duration *= 3;
    volume.order(|order| {
        let warning = shortened(&order, &chain).unwrap();
        assert!(warning.contains("gave 2 h where 6 h were asked for"), "{warning}");
    });
}

#[test]
fn a_secret_s_last_line_break_does_not_count() {
    assert_eq!(secret_text(b"token\r\n").unwrap().as_str(), "token");
    assert!(secret_text(b"\n").is_none() && secret_text(&[0xff]).is_none());
}

#[test]
fn whom_a_certificate_is_for_is_named() {
    let volume = Volume::new("web-0");
    let named = |name: &str, other: &str| (name.to_owned(), other.to_owned());
    volume.order(|order| assert_eq!(requester_name(&order), named("shop", "web-0")));
    let issuer = IssuerKey {
        group: "certmount.dev".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        namespace: None,
        name: "nodes".to_owned(),
    };
    volume.order_of(Requester::Node { name: "node-1", issuer: &issuer }, |order| {
        assert_eq!(requester_name(&order), named("node-1", "nodes"));
    });
}
