//! ACME against a real server, Pebble, which throws away good nonces, offers three chains, and looks
//! names up at a DNS server of the test's own. The driver is the real one as well.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests write files before anyone reads them")]

mod common;
#[path = "acme/pebble.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod pebble;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use certmount::csi::client::InlineVolume;
use certmount::x509::{Certificate, certificates_from_pem};
use common::named::{Named, enter_own_network};
use common::{Plugin, namespaced, namespaced_async};
use pebble::{Options, Pebble, free_port};

fn volume(pod: &str, attributes: &[(&str, &str)]) -> InlineVolume {
    let mut all =
        vec![("certmount.dev/issuer-name", "acme"), ("certmount.dev/issuer-kind", "ClusterIssuer")];
    all.extend(attributes);
    InlineVolume::new("web", pod, &all)
}

fn chain(target: &Path) -> Vec<Certificate> {
    certificates_from_pem(&fs::read(target.join("tls.crt")).unwrap()).unwrap()
}

/// A driver with the one issuer `acme`, which asks `pebble` and has these further fields.
fn driver(pebble: &Pebble, fields: &str, arguments: &[&str]) -> Plugin {
    let issuer = pebble.issuer(fields);
    let http = format!("127.0.0.1:{}", pebble.http_port);
    let tls = format!("127.0.0.1:{}", pebble.tls_port);
    let state = pebble.path("state");
    let mut all = vec!["--state-dir", state.to_str().unwrap()];
    if !arguments.contains(&"--acme-http01-address") {
        all.extend(["--acme-http01-address", &http]);
    }
    all.extend(["--acme-tls-alpn-address", &tls]);
    all.extend(arguments);
    Plugin::with_arguments(&[("acme.yaml", &issuer)], &all)
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn names_and_addresses_are_proved_by_http_and_renewed_when_the_ca_wants_it() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        let preferred = pebble.root_name(2);
        let fields = format!(
            "preferredChain: {preferred}\n    profile: shortlived\n    email: ops@example.com\n    \
             solvers: [{{http01: {{}}}}]"
        );
        let mut driver = driver(&pebble, &fields, &[]);
        let names = [
            ("certmount.dev/dns-names", "web.example.com,api.example.com"),
            ("certmount.dev/ip-sans", "127.0.0.1"),
        ];
        let web = volume("web-0", &names);
        let target = driver.kubelet().publish(&web).await.unwrap_or_else(|error| {
            panic!("{error}\n{}\n{}", driver.log(), pebble.log());
        });
        let first = chain(&target);
        let mut certified = first[0].names();
        certified.sort();
        assert_eq!(certified, ["dns:api.example.com", "dns:web.example.com", "ip:127.0.0.1"]);
        assert!(first.len() > 1, "there is an intermediate");
        assert_eq!(first.last().unwrap().issuer(), format!("CN={preferred}"));
        let validity = first[0].validity();
        let life = validity.not_after.duration_since(validity.not_before);
        assert_eq!((life.as_secs() + 1) / 86_400, 6, "the profile says how long");

        // The account's key is for its owner alone, and is made once.
        let key = pebble.path("state").join("acme/acme-account.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        driver.kubelet().publish(&volume("web-1", &names)).await.unwrap();
        assert_eq!(pebble.accounts(), 1);
        assert_eq!(pebble.orders(), 2);

        // The CA revokes, and says so by wanting the certificate replaced at once. It is asked when
        // the driver starts.
        pebble.want_renewed(&first[0]);
        driver.restart();
        driver.wait("the certificate is renewed", || chain(&target)[0] != first[0]);
        assert!(pebble.log().contains("is a replacement of"), "{}", pebble.log());
        assert_eq!((pebble.accounts(), pebble.orders()), (1, 3));
        let secret = fs::read_to_string(&key).unwrap();
        let body: String = secret.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(!driver.log().contains(&body[..32]), "the account's key is in the log");
    });
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn names_and_addresses_are_proved_by_tls() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        let driver = driver(&pebble, "solvers: [{tlsALPN01: {}}]", &[]);
        let names = [
            ("certmount.dev/dns-names", "web.example.com"),
            ("certmount.dev/ip-sans", "127.0.0.1"),
        ];
        let target = driver.kubelet().publish(&volume("web-0", &names)).await;
        let target = target.unwrap_or_else(|error| panic!("{error}\n{}", pebble.log()));
        assert_eq!(chain(&target)[0].names().len(), 2);
    });
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn a_record_that_is_there_for_good_proves_a_name() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        let driver = driver(&pebble, "solvers: [{dnsPersist01: {}}]", &[]);
        let web = volume("web-0", &[("certmount.dev/dns-names", "web.example.com")]);
        let error = driver.kubelet().publish(&web).await.unwrap_err();
        // What to write is what the message says.
        let said = error.message();
        assert!(said.contains("_validation-persist.web.example.com"), "{said}");
        let record = said.split(" be \"").nth(1).and_then(|rest| rest.split('"').next());
        let record = record.unwrap_or_else(|| panic!("no record in {said}"));
        pebble.set_txt("_validation-persist.web.example.com.", record);
        let target = pebble::eventually(async || driver.kubelet().publish(&web).await).await;
        assert_eq!(chain(&target)[0].names(), ["dns:web.example.com"]);
    });
}

#[test]
#[ignore = "needs pebble and BIND; .ci/run installs them"]
fn records_prove_names_and_are_gone_again_also_after_a_crash() {
    interrupted(async |world| {
        let Interrupted { primary, secondary, pebble, mut driver, web } = world;
        driver.restart();
        secondary.control(&["refresh", "example.com"]);
        let target = pebble::eventually(async || driver.kubelet().publish(&web).await).await;
        assert_eq!(chain(&target)[0].names().len(), 2);
        assert_eq!(pebble.orders(), 1, "it is the same order");
        until_gone(&primary).await;
    });
}

#[test]
#[ignore = "needs pebble and BIND; .ci/run installs them"]
fn records_are_gone_where_the_pod_is_before_the_driver_comes_back() {
    interrupted(async |world| {
        let Interrupted { primary, secondary: _secondary, pebble, mut driver, web } = world;
        // Nothing comes of another attempt, which would take them away as well.
        drop(pebble);
        driver.restart();
        driver.kubelet().unpublish(&web).await.unwrap();
        until_gone(&primary).await;
        assert!(driver.leftovers().is_empty(), "{:?}", driver.leftovers());
    });
}

/// A driver that was killed when its records were there and not seen everywhere yet.
struct Interrupted {
    primary: Named,
    secondary: Named,
    pebble: Pebble,
    driver: Plugin,
    web: InlineVolume,
}

const RECORDS: [&str; 2] = ["_acme-challenge.web.example.com", "_acme-challenge.api.example.com"];

fn interrupted(test: impl AsyncFnOnce(Interrupted)) {
    const SECRET: &str = "c2l4dGVlbiBieXRlcyBhcmUgZmV3";
    namespaced(|| {
        enter_own_network();
        let folder = tempfile::tempdir().unwrap();
        let zone = format!(
            "key certmount {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\nzone example.com {{ \
             type primary; file \"zone\"; update-policy {{ grant certmount zonesub TXT; }}; }};"
        );
        let records = "$TTL 300\n@ SOA ns1 root 1 3600 600 86400 60\n@ NS ns1\n@ NS ns2\n\
                       ns1 A 127.0.0.1\nns2 A 127.0.0.2\n";
        let files = [("zone", records)];
        let primary = Named::start(folder.path(), "127.0.0.1", "notify no;", &zone, &files);
        let copy = "zone example.com { type secondary; primaries { 127.0.0.1; }; };";
        let mut secondary = Named::start(folder.path(), "127.0.0.2", "notify no;", copy, &[]);
        secondary.wait_for("Transfer status: success");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = Options { dns_server: Some("127.0.0.1:53"), ..Options::default() };
            let pebble = Pebble::start(options);
            let solver = "solvers: [{dns01: {nameservers: [127.0.0.1], rfc2136: {nameserver: \
                          127.0.0.1, tsigKeyName: certmount, tsigSecretSecretRef: {name: tsig, \
                          key: secret}}}}]";
            let mut driver = driver(&pebble, solver, &[]);
            let tsig = format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: tsig}}\nstringData: {{secret: \
                 {SECRET}}}\n"
            );
            driver.configure("tsig.yaml", &tsig);
            let attribute = ("certmount.dev/dns-names", "web.example.com,api.example.com");
            let web = volume("web-0", &[attribute]);
            let there = || RECORDS.iter().all(|name| primary.texts(name).len() == 1);
            let early = tokio::select! {
                early = pebble::eventually(async || driver.kubelet().publish(&web).await) => early,
                () = until(there) => Path::new("").into(),
            };
            assert_eq!(early, Path::new(""), "the second server did not have the records");
            driver.kill();
            assert!(there(), "nobody took them away");
            test(Interrupted { primary, secondary, pebble, driver, web }).await;
        });
    });
}

/// Returns when that is so.
async fn until(fact: impl Fn() -> bool) {
    while !fact() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_gone(server: &Named) {
    let gone = || RECORDS.iter().all(|name| server.texts(name).is_empty());
    tokio::time::timeout(Duration::from_secs(20), until(gone)).await.unwrap();
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn check_tells_beforehand_what_an_order_would_run_into() {
    let check = |issuer: String| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("acme.yaml"), issuer).unwrap();
        let mut certmount = Command::new(env!("CARGO_BIN_EXE_certmount"));
        let output = certmount.args(["check", "--connect"]).arg(folder.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        if output.status.success() { Ok(said) } else { Err(said) }
    };
    let pebble = Pebble::start(Options::default());
    let good = pebble.issuer("solvers: [{http01: {}}]");
    check(good.clone()).unwrap();
    let said = check(pebble.issuer("profile: forever")).unwrap_err();
    assert!(said.contains("write one of default, shortlived"), "{said}");
    assert_eq!((pebble.accounts(), pebble.orders()), (0, 0), "nothing was made");
    drop(pebble);
    let said = check(good).unwrap_err();
    assert!(said.contains("error: ClusterIssuer acme: https://127.0.0.1"), "{said}");

    let binding = Pebble::start(Options { external_account: true, ..Options::default() });
    let said = check(binding.issuer("solvers: [{http01: {}}]")).unwrap_err();
    assert!(said.contains("write externalAccountBinding into the issuer"), "{said}");
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn accounts_are_bound_and_keys_of_others_taken_over() {
    namespaced_async(|| async {
        let options = Options { external_account: true, ..Options::default() };
        let pebble = Pebble::start(options);
        let mut driver = driver(&pebble, "solvers: [{http01: {}}]", &[]);
        let web = volume("web-0", &[("certmount.dev/dns-names", "web.example.com")]);
        let error = driver.kubelet().publish(&web).await.unwrap_err();
        assert!(error.message().contains("externalAccountBinding"), "{error}");

        let bound = pebble.issuer(
            "externalAccountBinding: {keyID: kid-1, keySecretRef: {name: binding, key: hmac}}\n    \
             solvers: [{http01: {}}]",
        );
        let binding = "apiVersion: v1\nkind: Secret\nmetadata: {name: binding}\nstringData: {hmac: \
                       zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W}\n";
        driver.configure("binding.yaml", binding);
        driver.configure("acme.yaml", &bound);
        pebble::eventually(async || driver.kubelet().publish(&web).await).await;
        assert_eq!(pebble.accounts(), 1);
        assert!(!driver.log().contains("zWNDZM6eQGHWpSRT"), "the binding's key is in the log");

        // Another cluster takes the account over in the form in which cert-manager and others write
        // keys, and needs no binding for it.
        let key = fs::read(pebble.path("state").join("acme/acme-account.pem")).unwrap();
        let key = certmount::x509::PrivateKey::from_pem(&key).unwrap();
        let sec1 = key.to_pem(certmount::x509::KeyEncoding::Sec1).unwrap();
        let indented: String = sec1.lines().map(|line| format!("    {line}\n")).collect();
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: acme-account}}\nstringData:\n  tls.key: |\n{indented}"
        );
        driver.kill();
        fs::remove_dir_all(pebble.path("state")).unwrap();
        driver.configure("account.yaml", &secret);
        driver.configure("acme.yaml", &pebble.issuer("solvers: [{http01: {}}]"));
        driver.restart();
        let other = volume("web-1", &[("certmount.dev/dns-names", "api.example.com")]);
        driver.kubelet().publish(&other).await.unwrap();
        assert_eq!(pebble.accounts(), 1);
        assert!(!pebble.path("state").exists(), "nothing is kept that is given");
    });
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn a_driver_that_is_killed_while_the_ca_checks_goes_on_with_the_same_order() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        // The CA's question is held up until the next process is there.
        let gate = pebble::Gate::new(pebble.http_port, free_port());
        let behind = format!("127.0.0.1:{}", gate.behind);
        let fields = "solvers: [{http01: {}}]";
        let mut driver = driver(&pebble, fields, &["--acme-http01-address", &behind]);
        let web = volume("web-0", &[("certmount.dev/dns-names", "web.example.com")]);
        let asking = tokio::spawn({
            let (kubelet, web) = (driver.kubelet(), web.clone());
            async move { kubelet.publish(&web).await }
        });
        gate.knocked().await;
        driver.kill();
        asking.await.unwrap().unwrap_err();
        driver.restart();
        gate.open();
        let target = pebble::eventually(async || driver.kubelet().publish(&web).await).await;
        assert_eq!(chain(&target)[0].names(), ["dns:web.example.com"]);
        assert_eq!((pebble.orders(), pebble.accounts()), (1, 1), "{}", pebble.log());
    });
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn pods_of_a_node_that_ask_for_the_same_are_one_order() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        let mut driver = driver(&pebble, "sharing: Node\n    solvers: [{http01: {}}]", &[]);
        let names = [("certmount.dev/dns-names", "web.example.com")];
        let pods: Vec<_> = (0..5).map(|n| volume(&format!("web-{n}"), &names)).collect();
        let kubelet = driver.kubelet();
        let targets = futures_util::future::join_all(pods.iter().map(|pod| kubelet.publish(pod)));
        let targets: Vec<_> = targets.await.into_iter().map(Result::unwrap).collect();
        let pair = |target: &PathBuf| {
            let read = |name: &str| fs::read_to_string(target.join(name)).unwrap();
            (read("tls.crt"), read("tls.key"))
        };
        let first = pair(&targets[0]);
        assert!(targets.iter().all(|target| pair(target) == first));
        assert_eq!(pebble.orders(), 1);
        let other = volume("api-0", &[("certmount.dev/dns-names", "api.example.com")]);
        assert_ne!(pair(&kubelet.publish(&other).await.unwrap()), first);
        assert_eq!(pebble.orders(), 2);

        // Another pod, also after a restart; and then all want a new one at once.
        driver.restart();
        assert_eq!(pair(&kubelet.publish(&volume("web-5", &names)).await.unwrap()), first);
        assert_eq!(pebble.orders(), 2);
        pebble.want_renewed(&chain(&targets[0])[0]);
        driver.restart();
        driver.wait("all are renewed", || targets.iter().all(|target| pair(target) != first));
        let second = pair(&targets[0]);
        assert!(targets.iter().all(|target| pair(target) == second));
        assert_eq!(pebble.orders(), 3, "{}", driver.log());
    });
}

#[test]
#[ignore = "needs pebble; .ci/run installs it"]
fn the_pod_s_owner_is_told_why_a_name_is_not_proved() {
    namespaced_async(|| async {
        let pebble = Pebble::start(Options::default());
        // Nobody is at the port that the CA asks.
        let elsewhere = format!("127.0.0.1:{}", free_port());
        let fields = "solvers: [{http01: {}}]";
        let driver = driver(&pebble, fields, &["--acme-http01-address", &elsewhere]);
        let web = volume("web-0", &[("certmount.dev/dns-names", "web.example.com")]);
        let error = driver.kubelet().publish(&web).await.unwrap_err();
        for words in ["web.example.com", "http-01", "connection", "--acme-http01-address"] {
            assert!(error.message().contains(words), "{error}");
        }
        // Kubelet asks again, the CA is not.
        tokio::time::sleep(Duration::from_secs(2)).await;
        driver.kubelet().publish(&web).await.unwrap_err();
        assert_eq!(pebble.orders(), 1);

        let blocked = volume("web-1", &[("certmount.dev/dns-names", "blocked-domain.example")]);
        let error = driver.kubelet().publish(&blocked).await.unwrap_err();
        assert!(error.message().contains("blocked-domain.example"), "{error}");
        assert!(error.message().contains("rejectedIdentifier"), "{error}");
    });
}
