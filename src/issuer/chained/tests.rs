use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::*;
use crate::error::with_causes;
use crate::issuer::fixture::Asking;
use crate::issuer::{Entry, IssuerSet, Issuers, Requester, StateStore};
use crate::spec::fixture::spec;
use crate::spec::object::{self, IssuerMethod, IssuerObject, Object};
use crate::spec::request::CertificateSpec;
use crate::x509::fixture::ca_template;
use crate::x509::{
    AuthorityInformation, Bundle, Certificate, CertificateAuthority, GeneralName, KeyAlgorithm,
    NameConstraints, PrivateKey, Template, Validity, self_sign,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A wall clock that follows tokio's paused one.
fn clock() -> Clock {
    let start = Instant::now();
    let first: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    Clock::from_fn(move || first + start.elapsed())
}

/// A CA that signs what it is asked for, or what a test makes of that.
#[derive(Debug)]
struct Upstream {
    root: CertificateAuthority,
    clock: Clock,
    asked: AtomicUsize,
    behaviour: Mutex<Behaviour>,
}

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Sign,
    /// Notes the key in the order's handle, and lets it wait for an approval.
    Await,
    Fail(IssueErrorKind),
    /// Changes what is signed.
    Twist(fn(&mut Template, &mut Validity)),
    /// Signs another key.
    OtherKey,
    /// Has it signed by the key itself.
    SelfSign,
}

impl Upstream {
    fn new(clock: &Clock) -> Arc<Self> {
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let now = clock.now();
        let validity = Validity { not_before: now - DAY, not_after: now + 3650 * DAY };
        let root =
            self_sign(&ca_template("CN=root"), &key, validity, &AuthorityInformation::default());
        Arc::new(Self {
            root: CertificateAuthority::new(vec![root.unwrap()], Vec::new(), key).unwrap(),
            clock: clock.clone(),
            asked: AtomicUsize::new(0),
            behaviour: Mutex::new(Behaviour::Sign),
        })
    }

    fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Issuer for Upstream {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        assert!(matches!(order.requester, Requester::Node { name: "node-1", .. }));
        self.asked.fetch_add(1, Ordering::SeqCst);
        // As long as a network takes, so that orders meet while it is under way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = self.clock.now();
        let mut template = order.spec.template.clone();
        let mut validity =
            Validity { not_before: now - MINUTE, not_after: now + order.spec.duration };
        let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let mut key = order.key;
        let information = AuthorityInformation::default();
        match *self.behaviour.lock().unwrap() {
            Behaviour::Sign => {}
            Behaviour::Await => {
                let key = format!("{:?}", order.key.public_key_info());
                assert!(order.handle.load().is_none_or(|handle| handle == key), "another key");
                order.handle.save(&key).unwrap();
                return Err(IssueError::new(IssueErrorKind::Pending, "somebody has to approve"));
            }
            Behaviour::Fail(kind) => return Err(IssueError::new(kind, "no, says the upstream")),
            Behaviour::Twist(twist) => twist(&mut template, &mut validity),
            Behaviour::OtherKey => key = &other,
            Behaviour::SelfSign => {
                let own = self_sign(&template, key, validity, &information).unwrap();
                return Ok(Issued { chain: vec![own.clone()], trust_anchors: vec![own] });
            }
        }
        let signed = self.root.sign(&template, key.public_key_info(), validity, &information);
        Ok(Issued {
            chain: vec![signed.unwrap()],
            trust_anchors: self.root.trust_anchors().to_vec(),
        })
    }
}

/// A chained issuer below an upstream.
struct World {
    clock: Clock,
    upstream: Arc<Upstream>,
    chained: Arc<Chained>,
    set: watch::Sender<Arc<IssuerSet>>,
    issuers: Issuers,
}

const MESH: &str = "issuerRef: {name: root}, nameConstraints: {permitted: {dnsDomains: [svc]}}";

impl World {
    fn new(spec: &str) -> Self {
        Self::of(&object("ClusterIssuer", "mesh", &format!("{{chained: {{{spec}}}}}")), "[]")
    }

    /// `policy` is the upstream's.
    fn of(issuer: &IssuerObject, policy: &str) -> Self {
        let clock = clock();
        let upstream = Upstream::new(&clock);
        let (key, chained) = (IssuerKey::of(issuer), chained(issuer, None, &clock));
        let policed =
            object("ClusterIssuer", "root", &format!("{{selfSigned: {{}}, policy: {policy}}}"));
        let policy = Some(policed.spec.policy.clone());
        let entry = Entry { policy, issuer: Ok(Arc::clone(&upstream) as _) };
        let own = Entry { policy: None, issuer: Ok(Arc::clone(&chained) as _) };
        let set = [(IssuerKey::of(&policed), entry), (key, own)].into_iter().collect();
        let (set, issuers) = Issuers::channel(set);
        Self { clock, upstream, chained, set, issuers }
    }

    /// The same in a new process of the driver, with another spec.
    fn restarted(self, spec: &str) -> Self {
        self.replaced(spec, None)
    }

    /// The same with another object of that name.
    fn replaced(mut self, spec: &str, uid: Option<&str>) -> Self {
        let issuer = object("ClusterIssuer", "mesh", &format!("{{chained: {{{spec}}}}}"));
        self.chained = chained(&issuer, uid, &self.clock);
        let own = Entry { policy: None, issuer: Ok(Arc::clone(&self.chained) as _) };
        self.set.send_modify(|set| {
            Arc::make_mut(set).issuers.insert(IssuerKey::of(&issuer), own);
        });
        self
    }

    async fn order(&self, name: &str) -> Result<Bundle, IssueError> {
        order(&*self.chained, &self.issuers, &self.clock, &asking_for(name)).await
    }
}

fn chained(issuer: &IssuerObject, uid: Option<&str>, clock: &Clock) -> Arc<Chained> {
    let IssuerMethod::Chained(spec) = issuer.spec.method.clone() else { panic!("{issuer}") };
    Arc::new(Chained::new(IssuerKey::of(issuer), uid, spec, "node-1", clock))
}

fn object(kind: &str, name: &str, spec: &str) -> IssuerObject {
    let namespace = if kind == "Issuer" { ", namespace: shop" } else { "" };
    let text = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}{namespace}}}, \
         spec: {spec}}}"
    );
    match object::parse(&text).remove(0).unwrap().object {
        Object::Issuer(issuer) => *issuer,
        other => panic!("{other:?}"),
    }
}

fn asking_for(name: &str) -> CertificateSpec {
    let mut spec = spec(90 * DAY.as_secs());
    spec.template.subject_alt_names = vec![GeneralName::dns(name).unwrap()];
    spec
}

/// Orders `spec` and checks the answer as a volume does.
async fn order(
    issuer: &dyn Issuer,
    issuers: &Issuers,
    clock: &Clock,
    spec: &CertificateSpec,
) -> Result<Bundle, IssueError> {
    let asking = Asking::for_new_key(spec);
    let issued = issuer.issue(Order { issuers, ..asking.order() }).await?;
    Ok(Bundle::new(asking.key, issued, &spec.template, spec.duration, clock.now()).unwrap())
}

fn intermediate(bundle: &Bundle) -> &Certificate {
    let [intermediate] = bundle.intermediates() else { panic!("{bundle:?}") };
    intermediate
}

#[tokio::test(start_paused = true)]
async fn all_orders_of_a_node_cost_one_intermediate_and_chain_to_the_upstreams_root() {
    let world = Arc::new(World::new(MESH));
    let orders = (0..50).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.order("web.shop.svc").await.unwrap() })
    });
    let mut bundles = Vec::new();
    for order in orders.collect::<Vec<_>>() {
        bundles.push(order.await.unwrap());
    }
    assert_eq!(world.upstream.asked(), 1);

    let signer = intermediate(&bundles[0]);
    assert_eq!(signer.subject(), "CN=certmount mesh node-1");
    assert_eq!(signer.basic_constraints(), BasicConstraints::Ca { path_len: Some(0) });
    let names = signer.name_constraints().unwrap();
    assert_eq!(names.to_string(), "permitted dns:svc");
    let life = signer.validity().not_after;
    assert!(life > world.clock.now() + 71 * HOUR && life <= world.clock.now() + 72 * HOUR);
    for bundle in &bundles {
        assert_eq!(intermediate(bundle), signer);
        assert_eq!(bundle.trust_anchors(), world.upstream.root.trust_anchors());
        assert!(bundle.leaf().validity().not_after < signer.validity().not_after);
        assert_ne!(bundle.leaf().public_key_info(), signer.public_key_info());
    }
}

#[tokio::test(start_paused = true)]
async fn an_intermediate_is_replaced_at_half_of_its_life_by_one_with_a_new_key() {
    let world = World::new(MESH);
    let first = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    tokio::time::sleep(34 * HOUR).await;
    let same = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    assert_eq!((first.clone(), 1), (same, world.upstream.asked()));
    tokio::time::sleep(2 * HOUR + MINUTE).await;
    assert_eq!(world.upstream.asked(), 2, "asked before anybody needs it");
    let second = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    assert_ne!(first.public_key_info(), second.public_key_info());
    assert!(second.validity().not_after > first.validity().not_after + 34 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn the_spec_says_when_to_replace_and_how_long_leaves_live() {
    let world = World::new("issuerRef: {name: root}, renewBefore: 70h, leaf: {maxDuration: 1h}");
    let bundle = world.order("web.shop.svc").await.unwrap();
    let life = bundle.leaf().validity().not_after.duration_since(world.clock.now());
    assert!((3590..=3600).contains(&life.as_secs()), "{life:?}");
    tokio::time::sleep(2 * HOUR + MINUTE).await;
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_not_replaced() {
    let world = World::new(MESH);
    world.order("web.shop.svc").await.unwrap();
    tokio::time::sleep(30 * DAY).await;
    assert_eq!(world.upstream.asked(), 2, "the one in use, and the next");
    // That one is long past its end.
    let bundle = world.order("web.shop.svc").await.unwrap();
    assert_eq!(world.upstream.asked(), 3);
    assert!(intermediate(&bundle).validity().not_after > world.clock.now() + 71 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn goes_on_while_the_upstream_is_down_asks_it_rarely_and_then_says_why() {
    let world = World::new(MESH);
    world.order("web.shop.svc").await.unwrap();
    world.upstream.behave(Behaviour::Fail(IssueErrorKind::Unavailable));
    assert_eq!(world.chained.warning(world.clock.now()), None);
    for _ in 0..70 {
        tokio::time::sleep(HOUR).await;
        world.order("web.shop.svc").await.unwrap();
    }
    let asked = world.upstream.asked();
    assert!((10..100).contains(&asked), "asked {asked} times in a day and a half");
    let warning = world.chained.warning(world.clock.now()).unwrap();
    assert!(warning.contains("ends at 2026-03-04") && warning.contains("says the upstream"));

    tokio::time::sleep(2 * HOUR).await;
    let error = world.order("web.shop.svc").await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    assert!(error.to_string().contains("no, says the upstream"), "{error}");
    assert!(error.retry_after.is_some_and(|wait| wait <= MINUTE), "{error:?}");

    world.upstream.behave(Behaviour::Sign);
    tokio::time::sleep(MINUTE).await;
    world.order("web.shop.svc").await.unwrap();
    assert_eq!(world.chained.warning(world.clock.now()), None);
}

#[tokio::test(start_paused = true)]
async fn orders_do_not_hurry_an_upstream_that_fails() {
    let world = World::new(MESH);
    world.upstream.behave(Behaviour::Fail(IssueErrorKind::Unavailable));
    let until = Instant::now() + 10 * MINUTE;
    let mut orders = 0;
    while Instant::now() < until {
        world.order("web.shop.svc").await.unwrap_err();
        orders += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = world.upstream.asked();
    assert!(orders > 1000 && asked < 40, "{asked} times for {orders} orders");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_what_was_asked_for_is_not_used() {
    fn permits_more(template: &mut Template, _: &mut Validity) {
        template.name_constraints = NameConstraints::default();
    }
    fn any_path(template: &mut Template, _: &mut Validity) {
        template.basic_constraints = BasicConstraints::Ca { path_len: None };
    }
    fn longer_path(template: &mut Template, _: &mut Validity) {
        template.basic_constraints = BasicConstraints::Ca { path_len: Some(1) };
    }
    fn no_ca(template: &mut Template, _: &mut Validity) {
        template.basic_constraints = BasicConstraints::EndEntity;
    }
    fn too_long(_: &mut Template, validity: &mut Validity) {
        validity.not_after += 30 * DAY;
    }
    fn expired(_: &mut Template, validity: &mut Validity) {
        validity.not_after = validity.not_before;
    }
    for (behaviour, said) in [
        (
            Behaviour::Twist(permits_more),
            "looser than those asked for: asked for permitted dns:svc, got none",
        ),
        (Behaviour::Twist(any_path), "path length is not limited"),
        (Behaviour::Twist(longer_path), "path length is 1"),
        (Behaviour::Twist(no_ca), "is not a CA"),
        (Behaviour::Twist(too_long), "longer than the duration of 3days in the spec"),
        (Behaviour::Twist(expired), "expired"),
        (Behaviour::OtherKey, "for another key"),
        (Behaviour::SelfSign, "signed by its own key"),
    ] {
        let world = World::new(MESH);
        world.upstream.behave(behaviour);
        let error = world.order("web.shop.svc").await.unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::BadResponse, "{behaviour:?}");
        assert!(with_causes(&error).contains(said), "{behaviour:?}: {}", with_causes(&error));
        assert!(error.to_string().contains("ClusterIssuer root"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_intermediate_outlives_bad_answers() {
    let world = World::new(MESH);
    let first = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    world.upstream.behave(Behaviour::OtherKey);
    tokio::time::sleep(60 * HOUR).await;
    assert!(world.upstream.asked() > 2);
    assert_eq!(*intermediate(&world.order("web.shop.svc").await.unwrap()), first);
}

#[tokio::test(start_paused = true)]
async fn names_that_the_constraints_do_not_allow_are_refused_before_signing() {
    let world = World::new(MESH);
    let error = world.order("web.example.com").await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Denied);
    let said = with_causes(&error);
    assert!(said.contains("do not allow dns:web.example.com; permitted: dns:svc"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn cas_are_refused_so_that_chained_issuers_never_wait_for_each_other() {
    let world = World::new("issuerRef: {name: other}");
    let mut spec = asking_for("web.shop.svc");
    spec.template.basic_constraints = BasicConstraints::Ca { path_len: None };
    let asked = order(&*world.chained, &world.issuers, &world.clock, &spec).await;
    assert_eq!(asked.unwrap_err().kind, IssueErrorKind::Denied);

    let other = object("ClusterIssuer", "other", "{chained: {issuerRef: {name: mesh}}}");
    let chained = chained(&other, None, &world.clock);
    world.set.send_modify(|set| {
        let entry = Entry { policy: None, issuer: Ok(chained) };
        Arc::make_mut(set).issuers.insert(IssuerKey::of(&other), entry);
    });
    let error = world.order("web.shop.svc").await.unwrap_err();
    assert!(error.to_string().contains("path length of its intermediates"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_of_a_namespace_has_a_ca_of_the_cluster_only_if_that_ones_policy_says_so() {
    let chained = |kind, name| {
        object(kind, name, "{chained: {issuerRef: {name: root, kind: ClusterIssuer}}}")
    };
    let own = chained("Issuer", "mesh");
    for refusing in [
        "[]",
        "[{namespaces: [shop]}]",
        "[{namespaces: [shop], isCA: true, maxDuration: 24h}]",
        "[{namespaces: [shop], serviceAccounts: [web], isCA: true}]",
        "[{namespaces: [other], isCA: true}]",
    ] {
        let world = World::of(&own, refusing);
        let error = world.order("web.shop.svc").await.unwrap_err();
        assert_eq!((error.kind, world.upstream.asked()), (IssueErrorKind::Denied, 0), "{refusing}");
        assert!(error.to_string().contains("- namespaces: [shop]\n  isCA: true"), "{error}");
    }
    let world = World::of(&own, "[{namespaces: [shop], isCA: true}]");
    world.order("web.shop.svc").await.unwrap();
    // Whoever writes one for the cluster could as well write the policy.
    let world = World::of(&chained("ClusterIssuer", "mesh"), "[]");
    world.order("web.shop.svc").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_comes_is_asked_at_once() {
    let world = World::new(MESH);
    let with_upstream = Arc::clone(&world.set.borrow());
    world.set.send_modify(|set| {
        Arc::make_mut(set).issuers.retain(|key, _| key.name != "root");
    });
    let error = world.order("web.shop.svc").await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Config);
    assert!(error.to_string().contains("there is no ClusterIssuer root"), "{error}");
    tokio::time::sleep(DAY).await;
    world.order("web.shop.svc").await.unwrap_err();
    assert_eq!(world.upstream.asked(), 0);

    world.set.send_replace(with_upstream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.upstream.asked(), 1);
    world.order("web.shop.svc").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn does_not_keep_the_issuers_alive() {
    for behaviour in [Behaviour::Sign, Behaviour::Fail(IssueErrorKind::Unavailable)] {
        let World { issuers, set, chained, upstream, clock } = World::new(MESH);
        upstream.behave(behaviour);
        let _ = order(&*chained, &issuers, &clock, &asking_for("web.shop.svc")).await;
        drop(issuers);
        tokio::time::timeout(MINUTE, set.closed()).await.unwrap();
    }
}

#[test]
fn subjects_fit_whatever_issuer_and_node_are_called() {
    for node in
        ["node-1", "", &"n".repeat(253), "ünïcode-node-with-a-name-that-is-far-too-löng-for-a-cn"]
    {
        let subject = keeper::subject("mesh", node);
        assert!(subject.common_name().is_some_and(|name| name.len() <= 64), "{subject}");
    }
}

#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl StateStore for Memory {
    fn load(&self, name: &str) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.0.lock().unwrap().get(name).cloned().map(Zeroizing::new))
    }

    fn store(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.0.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn names(&self) -> std::io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_process_goes_on_with_the_intermediate_and_replaces_it_in_time() {
    let mut world = World::new(MESH);
    let memory = Arc::new(Memory::default());
    world.issuers = world.issuers.with_state(Arc::clone(&memory) as Arc<dyn StateStore>);
    let first = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();

    world.upstream.behave(Behaviour::Fail(IssueErrorKind::Unavailable));
    tokio::time::sleep(20 * HOUR).await;
    world = world.restarted(MESH);
    assert_eq!(*intermediate(&world.order("web.shop.svc").await.unwrap()), first);
    assert_eq!(world.upstream.asked(), 1);
    tokio::time::sleep(16 * HOUR + MINUTE).await;
    assert!(world.upstream.asked() > 1, "at half of its whole life");

    // Past half of it when the process starts, and asked for when it is used.
    world = world.restarted(MESH);
    world.upstream.behave(Behaviour::Sign);
    let asked = world.upstream.asked();
    assert_eq!(*intermediate(&world.order("web.shop.svc").await.unwrap()), first);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.upstream.asked(), asked + 1);
    let second = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    assert_ne!(first, second);

    for state in memory.0.lock().unwrap().values_mut() {
        state.truncate(300);
    }
    world = world.restarted(MESH);
    let third = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    assert_ne!(second, third, "what is damaged is not used");
}

#[tokio::test(start_paused = true)]
async fn a_new_process_goes_on_with_the_order_of_the_one_before() {
    let mut world = World::new(MESH);
    let memory = Arc::new(Memory::default());
    world.issuers = world.issuers.with_state(Arc::clone(&memory) as Arc<dyn StateStore>);
    world.upstream.behave(Behaviour::Await);
    world.order("web.shop.svc").await.unwrap_err();
    let handle = || {
        let kept = memory.0.lock().unwrap();
        let order = kept.iter().find(|(name, _)| name.starts_with("order-")).unwrap().1;
        let text = String::from_utf8(order.clone()).unwrap();
        text.split_once("# handle\n").map(|(_, handle)| handle.to_owned())
    };
    let first = handle().unwrap();

    // It would not come about with another key: the upstream sees to that.
    world = world.restarted(MESH);
    world.order("web.shop.svc").await.unwrap_err();
    assert_eq!(handle(), Some(first.clone()));
    assert!(world.upstream.asked() > 1);
    world = world.restarted(MESH);
    world.upstream.behave(Behaviour::Sign);
    let bundle = world.order("web.shop.svc").await.unwrap();
    assert_eq!(format!("{:?}", intermediate(&bundle).public_key_info()), first);
    assert_eq!(handle(), None, "it is over");
}

#[tokio::test(start_paused = true)]
async fn an_intermediate_is_asked_for_by_names_and_may_come_without_them() {
    fn no_names(template: &mut Template, _: &mut Validity) {
        template.subject_alt_names.clear();
    }
    for (behaviour, names) in [
        (Behaviour::Sign, vec!["dns:node-1.mesh.example.com", "dns:mesh.example.com"]),
        (Behaviour::Twist(no_names), Vec::new()),
    ] {
        let world = World::new(&format!(
            "{MESH}, dnsNames: ['${{NODE_NAME}}.mesh.example.com', mesh.example.com]"
        ));
        world.upstream.behave(behaviour);
        let bundle = world.order("web.shop.svc").await.unwrap();
        let signer = intermediate(&bundle);
        assert_eq!(signer.subject(), "CN=node-1.mesh.example.com");
        assert_eq!(signer.names(), names);
        assert_eq!(signer.basic_constraints(), BasicConstraints::Ca { path_len: Some(0) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_looks_for_the_upstream_and_asks_nothing_of_it() {
    let world = World::new(MESH);
    world.chained.probe(&world.issuers).await.unwrap();
    world.set.send_modify(|set| Arc::make_mut(set).issuers.clear());
    let error = world.chained.probe(&world.issuers).await.unwrap_err();
    assert!(error.to_string().contains("there is no ClusterIssuer root"), "{error}");
    assert_eq!(world.upstream.asked(), 0);

    let own = object(
        "Issuer",
        "mesh",
        "{chained: {issuerRef: {name: root, kind: ClusterIssuer}, \
                dnsNames: [mesh.example.com]}}",
    );
    let world = World::of(&own, "[{namespaces: [shop], isCA: true}]");
    let error = world.chained.probe(&world.issuers).await.unwrap_err();
    assert!(error.to_string().contains("isCA: true\n  dnsNames: ['mesh.example.com']"), "{error}");
    let world = World::of(&own, "[{namespaces: [shop], isCA: true, dnsNames: [mesh.example.com]}]");
    world.chained.probe(&world.issuers).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_process_with_another_spec_asks_again() {
    let mut world = World::new(MESH);
    let memory = Arc::new(Memory::default());
    world.issuers = world.issuers.with_state(memory as Arc<dyn StateStore>);
    world.order("web.shop.svc").await.unwrap();
    world = world.restarted("issuerRef: {name: root}");
    world.order("web.example.com").await.unwrap();
    assert_eq!(world.upstream.asked(), 2);
    world = world.restarted("issuerRef: {name: root}");
    world.order("web.example.com").await.unwrap();
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_an_issuer_kept_goes_with_its_object() {
    let mut world = World::new(MESH);
    let memory = Arc::new(Memory::default());
    world.issuers = world.issuers.with_state(Arc::clone(&memory) as Arc<dyn StateStore>);
    let first = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    world.issuers.tidy().unwrap();
    assert_eq!(memory.names().unwrap().len(), 1);

    // Another object of that name, of whom only the uid is another.
    world = world.replaced(MESH, Some("uid-2"));
    let second = intermediate(&world.order("web.shop.svc").await.unwrap()).clone();
    assert_ne!(first.public_key_info(), second.public_key_info());
    assert_eq!(memory.names().unwrap().len(), 2);
    world.issuers.tidy().unwrap();
    assert_eq!(memory.names().unwrap().len(), 1);
    world = world.replaced(MESH, Some("uid-2"));
    assert_eq!(*intermediate(&world.order("web.shop.svc").await.unwrap()), second);

    // What cannot be read may be an issuer that is there.
    let mesh = IssuerKey::of(&object("ClusterIssuer", "mesh", "{selfSigned: {}}"));
    world.set.send_modify(|set| {
        let set = Arc::make_mut(set);
        set.issuers.remove(&mesh);
        set.is_partial = true;
    });
    world.issuers.tidy().unwrap();
    assert_eq!(memory.names().unwrap().len(), 1);
    world.set.send_modify(|set| Arc::make_mut(set).is_partial = false);
    world.issuers.tidy().unwrap();
    assert_eq!(memory.names().unwrap(), [""; 0]);

    // Whoever holds it still signs to the end of the call, and leaves nothing behind.
    tokio::time::sleep(40 * HOUR).await;
    world.order("web.shop.svc").await.unwrap();
    assert_eq!(memory.names().unwrap(), [""; 0]);
}
