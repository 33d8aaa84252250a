//! Folders of issuer files: what is in force, what is reported, and that changes are taken up live.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and half-written files are what is tested here"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certmount::clock::{Clock, Timestamp};
use certmount::config::{self, Loaded, Problem, Root, RootOptions, Running, Severity};
use certmount::issuer::{Entry, Issuer, Surroundings};
use certmount::spec::policy::Cluster;
use certmount::spec::volume::{IssuerRef, TrustRef};
use certmount::x509::{Certificate, KeyAlgorithm, chain_to_pem};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

/// Far less than the minute after which the folder is read anyway.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn load(dir: &Path) -> Loaded {
    load_at(dir, &Clock::from_fn(now))
}

/// In a thread of its own, since some tests are in a runtime already.
fn load_at(dir: &Path, clock: &Clock) -> Loaded {
    let load = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(config::load(dir, &Cluster::default(), clock, None)).unwrap()
    };
    std::thread::scope(|scope| scope.spawn(load).join().unwrap())
}

fn self_signed(name: &str) -> String {
    format!(
        "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {{name: {name}}}\nspec: {{selfSigned: {{}}}}\n"
    )
}

fn ca(name: &str, secret: &str) -> String {
    self_signed(name).replace("selfSigned: {}", &format!("ca: {{secretName: {secret}}}"))
}

fn root(duration: Duration) -> Root {
    let options = RootOptions {
        name: "root".to_owned(),
        common_name: "root".to_owned(),
        algorithm: KeyAlgorithm::EcdsaP256,
        duration,
        path_len: None,
    };
    Root::make(&options, now()).unwrap()
}

/// The text of `root`'s Secret.
fn secret_of(root: &Root) -> String {
    let dir = folder();
    let [secret, _] = root.write(dir.path(), false).unwrap();
    fs::read_to_string(secret).unwrap()
}

/// The PEM certificate and key of `root`.
fn pem_of(root: &Root) -> [String; 2] {
    let secret = secret_of(root);
    let block = |key: &str| -> String {
        let lines = secret.lines().skip_while(|line| *line != format!("  {key}: |")).skip(1);
        lines.map_while(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
    };
    [block("tls.crt"), block("tls.key")]
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn reference(name: &str) -> IssuerRef {
    IssuerRef {
        group: "certmount.dev".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        name: name.to_owned(),
    }
}

/// A folder that is followed.
struct Followed(Running);

impl Followed {
    fn start(dir: &Path) -> Self {
        Self(
            config::start(
                dir,
                Cluster::default(),
                Surroundings::new(Clock::from_fn(now), "node-1"),
            )
            .unwrap(),
        )
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        self.0.issuers.get(&reference(name), "web")
    }

    fn issuer(&self, name: &str) -> Option<Arc<dyn Issuer>> {
        self.entry(name)?.issuer.ok()
    }

    fn anchors(&self, name: &str) -> Vec<Certificate> {
        self.issuer(name)
            .and_then(|issuer| issuer.trust_anchors().map(<[_]>::to_vec))
            .unwrap_or_default()
    }

    fn problems(&self) -> Vec<Problem> {
        self.0.problems.borrow().clone()
    }

    fn says(&self, text: &str) -> bool {
        self.problems().iter().any(|problem| problem.to_string().contains(text))
    }

    /// Waits for `fact`, looking at each change.
    async fn until(&mut self, what: &str, fact: impl Fn(&Self) -> bool) {
        let came = tokio::time::timeout(PATIENCE, async {
            while !fact(self) {
                let Running { issuers, problems, .. } = &mut self.0;
                tokio::select! {
                    () = issuers.changed() => {}
                    changed = problems.changed() => changed.expect("the folder is followed"),
                }
            }
        });
        if came.await.is_err() {
            panic!("{what} did not come: {:#?}", self.problems());
        }
    }
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = folder();
    let mut followed = Followed::start(dir.path());
    assert!(followed.entry("a").is_none() && followed.problems().is_empty());
    let file = dir.path().join("issuer.yaml");
    fs::write(&file, self_signed("a")).unwrap();
    followed.until("a new file", |f| f.entry("a").is_some()).await;
    replace(&file, &self_signed("b"));
    followed.until("a replaced file", |f| f.entry("b").is_some() && f.entry("a").is_none()).await;
    fs::write(&file, self_signed("c")).unwrap();
    followed.until("a rewritten file", |f| f.entry("c").is_some()).await;
    fs::rename(&file, dir.path().join("issuer.txt")).unwrap();
    followed.until("a file that is none any more", |f| f.entry("c").is_none()).await;
    fs::rename(dir.path().join("issuer.txt"), &file).unwrap();
    followed.until("a file that is one again", |f| f.entry("c").is_some()).await;
    fs::remove_file(&file).unwrap();
    followed.until("a removed file", |f| f.entry("c").is_none()).await;
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_held() {
    let dir = folder();
    let file = dir.path().join("issuer.yaml");
    fs::write(&file, format!("{}---\n{}", self_signed("a"), self_signed("b"))).unwrap();
    let mut followed = Followed::start(dir.path());
    let before = followed.issuer("a").unwrap();

    replace(
        &file,
        &format!(
            "{}---\n{}",
            self_signed("c"),
            self_signed("a").replace("selfSigned", "selfsigned")
        ),
    );
    followed.until("the complaint", |f| !f.problems().is_empty()).await;
    let said = followed.problems()[0].to_string();
    assert_eq!(
        said,
        format!(
            "{}:9:8: ClusterIssuer a: spec.selfsigned: unknown field \"selfsigned\", did you mean \
             selfSigned?; what this file held before stays in force",
            file.display()
        )
    );
    assert!(Arc::ptr_eq(&followed.issuer("a").unwrap(), &before));
    assert!(followed.entry("b").is_some() && followed.entry("c").is_none());

    replace(&file, "\u{0}");
    followed.until("another complaint", |f| !f.says("selfsigned")).await;
    assert!(followed.entry("b").is_some());
    replace(&file, &self_signed("c"));
    followed.until("peace", |f| f.entry("c").is_some() && f.problems().is_empty()).await;
    assert!(followed.entry("b").is_none());
}

#[tokio::test]
async fn a_mount_is_swapped_as_kubelet_does() {
    let dir = folder();
    let swap = |version: &str, text: &str| {
        let data = dir.path().join(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("issuer.yaml"), text).unwrap();
        let link = dir.path().join("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(link, dir.path().join("..data")).unwrap();
    };
    swap("..2026_1", &self_signed("a"));
    symlink("..data/issuer.yaml", dir.path().join("issuer.yaml")).unwrap();
    let mut followed = Followed::start(dir.path());
    assert!(followed.entry("a").is_some());
    for (version, name) in [("..2026_2", "b"), ("..2026_3", "c")] {
        swap(version, &self_signed(name));
        followed.until("a swap", |f| f.entry(name).is_some()).await;
    }
    assert!(followed.entry("a").is_none() && followed.entry("b").is_none());
    assert_eq!(followed.problems(), []);
}

#[tokio::test]
async fn a_folder_may_come_late_and_be_replaced() {
    let parent = folder();
    let dir = parent.path().join("config");
    let mut followed = Followed::start(&dir);
    assert!(followed.says("cannot be read"));

    let make = |name: &str| {
        let beside = parent.path().join("beside");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("issuer.yaml"), self_signed(name)).unwrap();
        fs::rename(beside, &dir).unwrap();
    };
    make("a");
    followed.until("the folder", |f| f.entry("a").is_some() && f.problems().is_empty()).await;
    fs::rename(&dir, parent.path().join("old")).unwrap();
    followed.until("the loss", |f| f.says("cannot be read")).await;
    assert!(followed.entry("a").is_some(), "what is in force stays");
    make("b");
    followed.until("another folder", |f| f.entry("b").is_some() && f.entry("a").is_none()).await;
    // The new one is watched, not the one that has its old name.
    fs::write(dir.join("more.yaml"), self_signed("c")).unwrap();
    followed.until("a file in it", |f| f.entry("c").is_some()).await;
}

#[tokio::test]
async fn a_new_ca_is_taken_up_and_other_issuers_are_left_alone() {
    let dir = folder();
    let (old, new) = (root(90 * DAY), root(90 * DAY));
    let secret = dir.path().join("secret.yaml");
    fs::write(
        dir.path().join("issuers.yaml"),
        format!("{}---\n{}", ca("ca", "root"), self_signed("own")),
    )
    .unwrap();
    let mut followed = Followed::start(dir.path());
    assert!(followed.says("there is no Secret root"));
    let own = followed.issuer("own").unwrap();

    fs::write(&secret, secret_of(&old)).unwrap();
    followed.until("the Secret", |f| !f.anchors("ca").is_empty()).await;
    assert_eq!(followed.anchors("ca"), [old.certificate().clone()]);
    replace(&secret, &secret_of(&new));
    followed.until("the new CA", |f| f.anchors("ca") == [new.certificate().clone()]).await;

    // The old certificate with the new key is no CA.
    let [certificate, _] = pem_of(&old);
    let indented: String = certificate.lines().map(|line| format!("    {line}\n")).collect();
    let mixed = secret_of(&new);
    let (head, rest) = mixed.split_once("  tls.crt: |\n").unwrap();
    let (_, tail) = rest.split_once("  tls.key: |\n").unwrap();
    replace(&secret, &format!("{head}  tls.crt: |\n{indented}  tls.key: |\n{tail}"));
    followed.until("the complaint", |f| f.says("the CA used before stays in force")).await;
    assert_eq!(followed.anchors("ca"), [new.certificate().clone()]);
    // It stays so when something else changes.
    fs::write(dir.path().join("more.yaml"), self_signed("more")).unwrap();
    followed.until("another file", |f| f.entry("more").is_some()).await;
    assert!(followed.says("the CA used before stays in force"));
    assert_eq!(followed.anchors("ca"), [new.certificate().clone()]);

    fs::remove_file(&secret).unwrap();
    followed.until("the loss", |f| f.issuer("ca").is_none()).await;
    assert!(Arc::ptr_eq(&followed.issuer("own").unwrap(), &own));
}

#[tokio::test]
async fn a_policy_changes_without_a_new_issuer() {
    let dir = folder();
    let file = dir.path().join("issuer.yaml");
    fs::write(&file, self_signed("a")).unwrap();
    let mut followed = Followed::start(dir.path());
    let before = followed.entry("a").unwrap();
    let rules = "{selfSigned: {}, policy: [{dnsNames: [a.example]}]}";
    replace(&file, &self_signed("a").replace("{selfSigned: {}}", rules));
    followed.until("the policy", |f| f.entry("a").unwrap().policy != before.policy).await;
    assert!(Arc::ptr_eq(&followed.issuer("a").unwrap(), &before.issuer.unwrap()));
}

#[tokio::test]
async fn files_of_a_ca_are_followed_where_they_are() {
    let (dir, elsewhere) = (folder(), folder());
    let (old, new) = (root(90 * DAY), root(90 * DAY));
    let put = |root: &Root| {
        let [certificate, key] = pem_of(root);
        replace(&elsewhere.path().join("tls.crt"), &certificate);
        replace(&elsewhere.path().join("tls.key"), &key);
    };
    put(&old);
    let files = format!(
        "ca: {{files: {{certFile: {0}/tls.crt, keyFile: {0}/tls.key}}}}",
        elsewhere.path().display()
    );
    fs::write(dir.path().join("issuer.yaml"), self_signed("ca").replace("selfSigned: {}", &files))
        .unwrap();
    let mut followed = Followed::start(dir.path());
    assert_eq!(followed.anchors("ca"), [old.certificate().clone()]);

    // Half of a change is not taken up.
    replace(&elsewhere.path().join("tls.crt"), &pem_of(&new)[0]);
    followed.until("the complaint", |f| f.says("the CA used before stays in force")).await;
    assert_eq!(followed.anchors("ca"), [old.certificate().clone()]);
    put(&new);
    followed.until("the new CA", |f| f.anchors("ca") == [new.certificate().clone()]).await;
    assert_eq!(followed.problems(), []);
    fs::remove_file(elsewhere.path().join("tls.key")).unwrap();
    followed.until("the loss", |f| f.says("tls.key cannot be read")).await;
    assert!(followed.issuer("ca").is_none());
}

#[tokio::test]
async fn trust_anchors_come_from_config_maps_among_the_files() {
    let dir = folder();
    let config_map = |namespace: &str, root: &Root| {
        let pem = chain_to_pem([root.certificate()]).replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots{namespace}}}\ndata:\n  ca.crt: |\n    {pem}\n"
        )
    };
    let [for_all, of_web, next] = [(); 3].map(|()| root(90 * DAY));
    let all = dir.path().join("all.yaml");
    replace(&all, &config_map("", &for_all));
    replace(&dir.path().join("web.yaml"), &config_map(", namespace: web", &of_web));
    let Followed(running) = Followed::start(dir.path());
    let reference = TrustRef::ConfigMap { name: "roots".to_owned(), key: "ca.crt".to_owned() };
    let mut shop = running.anchors.follow("shop", std::slice::from_ref(&reference));
    let mut web = running.anchors.follow("web", &[reference]);
    for (anchors, root) in [(&mut shop, &for_all), (&mut web, &of_web)] {
        anchors.settled().await;
        assert_eq!(anchors.known(), Some(vec![root.certificate().clone()]));
    }
    replace(&all, &config_map("", &next));
    tokio::time::timeout(PATIENCE, shop.changed()).await.expect("the change is heard of");
    assert_eq!(shop.known(), Some(vec![next.certificate().clone()]));

    replace(&dir.path().join("b.yaml"), &config_map("", &next));
    let [problem] = &load(dir.path()).problems[..] else { panic!("one is there twice") };
    assert!(problem.to_string().contains("ConfigMap roots: it is already in"), "{problem}");
}

#[tokio::test]
async fn nobody_follows_for_nobody() {
    let dir = folder();
    let Running { issuers, mut problems, .. } = Followed::start(dir.path()).0;
    drop(issuers);
    let ended = async { while problems.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the task ends");
}

#[test]
fn everything_wrong_in_a_folder_is_said_with_its_place() {
    let dir = folder();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::write(at("a.yaml"), format!("{}---\n{}", self_signed("one"), self_signed("one"))).unwrap();
    fs::write(at("b.yml"), self_signed("one")).unwrap();
    fs::write(at("c.json"), "{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}").unwrap();
    fs::write(at("d.yaml"), [0xff, 0xfe]).unwrap();
    fs::write(at("e.yaml"), "x".repeat((1 << 20) + 1)).unwrap();
    fs::create_dir(at("f.yaml")).unwrap();
    symlink("nowhere", at("g.yaml")).unwrap();
    fs::write(at("h.yaml"), ca("unsupported", "x").replace("ca:", "certManager:")).unwrap();
    fs::write(at(".hidden.yaml"), "[").unwrap();
    fs::write(at("notes.txt"), "[").unwrap();
    let pipe = at("i.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let loaded = load(dir.path());
    let said: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    let expected = [
        "a.yaml:6:1: ClusterIssuer one: it is already in ",
        "b.yml:1:1: ClusterIssuer one: it is already in ",
        "c.json:1:1: apiVersion \"v1\" and kind \"Pod\" are of no object that is read here",
        "d.yaml:1:1: this file is not UTF-8",
        "e.yaml:1:1: this file cannot be read: it is longer than 1048576 bytes",
        "f.yaml:1:1: this file cannot be read: it is not a regular file",
        "h.yaml:1:1: ClusterIssuer unsupported: certManager is not supported by this build",
        "i.yaml:1:1: this file cannot be read: it is not a regular file",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(&format!("/{expected}")), "{said}\n{expected}");
    }
    let names: Vec<&str> = loaded.issuers.issuers.keys().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["one", "unsupported"]);
}

#[test]
fn what_is_right_in_a_broken_file_is_used_where_nothing_was_before() {
    let dir = folder();
    fs::write(dir.path().join("a.yaml"), format!("{}---\nkind: [\n", self_signed("a"))).unwrap();
    let loaded = load(dir.path());
    assert_eq!((loaded.issuers.issuers.len(), loaded.problems.len()), (1, 1));
    assert!(!loaded.problems[0].message.contains("stays in force"));
}

#[test]
fn secrets_are_found_by_namespace() {
    let dir = folder();
    let (cluster_wide, of_web) = (root(90 * DAY), root(90 * DAY));
    let in_web = |text: String, name: &str| {
        text.replace("name: root", &format!("name: {name}\n  namespace: web"))
    };
    let issuer_in = |namespace: &str| {
        ca("ca", "root")
            .replace("ClusterIssuer", "Issuer")
            .replace("{name: ca}", &format!("{{name: ca, namespace: {namespace}}}"))
    };
    fs::write(dir.path().join("s1.yaml"), secret_of(&cluster_wide)).unwrap();
    fs::write(dir.path().join("s2.yaml"), in_web(secret_of(&of_web), "root")).unwrap();
    fs::write(dir.path().join("s3.yaml"), in_web(secret_of(&of_web), "lone")).unwrap();
    let issuers = [ca("ca", "root"), ca("other", "lone"), issuer_in("web"), issuer_in("shop")];
    fs::write(dir.path().join("i.yaml"), issuers.join("---\n")).unwrap();

    let loaded = load(dir.path());
    let anchors = |name: &str, namespace: Option<&str>| {
        let key = loaded
            .issuers
            .issuers
            .keys()
            .find(|k| k.name == name && k.namespace.as_deref() == namespace);
        let issuer = loaded.issuers.issuers[key.unwrap()].issuer.clone().ok()?;
        issuer.trust_anchors().map(<[_]>::to_vec)
    };
    assert_eq!(anchors("ca", None), Some(vec![cluster_wide.certificate().clone()]));
    assert_eq!(anchors("other", None), Some(vec![of_web.certificate().clone()]));
    assert_eq!(anchors("ca", Some("web")), Some(vec![of_web.certificate().clone()]));
    assert_eq!(anchors("ca", Some("shop")), None, "no other namespace's Secret");
    assert_eq!(loaded.problems.len(), 1);
    assert!(loaded.problems[0].message.contains("no Secret root in namespace shop"));
}

#[test]
fn a_ca_near_its_end_is_warned_about() {
    let dir = folder();
    let options = |duration| {
        root(duration).write(dir.path(), true).unwrap();
        load_at(dir.path(), &Clock::from_fn(|| now() + 80 * DAY))
    };
    let loaded = options(90 * DAY);
    assert_eq!(loaded.problems[0].severity, Severity::Warning);
    assert!(loaded.problems[0].message.contains("expires at 2026-05-30"), "{:?}", loaded.problems);
    let loaded = options(70 * DAY);
    assert!(loaded.problems[0].message.contains("expired at 2026-05-10"), "{:?}", loaded.problems);
}

#[test]
fn no_problem_shows_a_key() {
    let dir = folder();
    let root = root(90 * DAY);
    let [_, key] = pem_of(&root);
    let body: Vec<&str> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let secret = secret_of(&root);
    for (index, broken) in [
        secret.replace("tls.key: |", "tls.key: ["),
        secret.replace("-----BEGIN PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----"),
        secret.replace("-----BEGIN PRIVATE KEY-----", "hello"),
        secret.replace("stringData", "data"),
        secret.replace("stringData", "stringdata"),
        secret.replace("  tls.key: |\n", "  tls.key: |\n bad\n"),
        secret.replace(body[0], &format!("{}\u{1}", body[0])),
        secret.replace("kind: Secret", "kind: Secert"),
        secret.replace("v1", "v2"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(dir.path().join("s.yaml"), broken).unwrap();
        fs::write(dir.path().join("i.yaml"), ca("ca", "root")).unwrap();
        let loaded = load(dir.path());
        assert!(!loaded.problems.is_empty(), "{index}");
        let shown = format!(
            "{loaded:?} {:?}",
            loaded.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        );
        for line in &body {
            assert!(!shown.contains(&line[..16]), "{index}: {:?}", loaded.problems);
        }
    }
}

#[test]
fn a_chained_issuer_without_its_upstream_is_warned_about() {
    let folder = folder();
    let chained =
        self_signed("mesh").replace("selfSigned: {}", "chained: {issuerRef: {name: root}}");
    fs::write(folder.path().join("mesh.yaml"), chained).unwrap();
    let problems = load(folder.path()).problems;
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(problem.severity, Severity::Warning);
    assert!(problem.to_string().contains("names ClusterIssuer root, which is not there"));

    let root = root(90 * DAY);
    fs::write(folder.path().join("secret.yaml"), secret_of(&root)).unwrap();
    fs::write(folder.path().join("root.yaml"), ca("root", "root")).unwrap();
    assert_eq!(load(folder.path()).problems, []);
}

#[test]
fn an_upstream_that_could_never_sign_an_intermediate_is_told() {
    let mesh = |fields: &str| {
        self_signed("mesh")
            .replace("selfSigned: {}", &format!("chained: {{issuerRef: {{name: root}}{fields}}}"))
    };
    let root = |method: &str| self_signed("root").replace("selfSigned: {}", method);
    let acme = root("acme: {server: https://ca.example, privateKeySecretRef: {name: account}}");
    for (root, fields, said) in [
        (root("selfSigned: {}"), "", Some("a self-signing issuer")),
        (root("chained: {issuerRef: {name: a, group: g.example}}"), "", Some("signs no CAs")),
        (acme.clone(), "", Some("write dnsNames for the intermediates")),
        (acme, ", dnsNames: [mesh.example.com]", None),
    ] {
        let folder = folder();
        fs::write(folder.path().join("mesh.yaml"), mesh(fields)).unwrap();
        fs::write(folder.path().join("root.yaml"), root).unwrap();
        let problems = load(folder.path()).problems;
        match (&problems[..], said) {
            ([], None) => {}
            ([problem], Some(said)) => {
                assert_eq!(problem.severity, Severity::Error);
                assert!(problem.message.contains(said), "{problem}");
                assert_eq!(problem.object.as_deref(), Some("ClusterIssuer mesh"));
            }
            _ => panic!("{problems:?}"),
        }
    }
}
