//! DNS-01 against BIND: two servers on port 53 of a network that is the test's own, a zone that
//! both have, one that only the second has, and dynamic updates with TSIG.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use certmount::clock::Clock;
use certmount::error::with_causes;
use certmount::issuer::{Dns01, IssueError, IssueErrorKind, Materials, Surroundings, TxtRecord};
use certmount::spec::object::SecretObject;
use common::named::{Named, enter_own_network};
use common::namespaced;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The key that may update TXT records.
const SECRET: &str = "c2l4dGVlbiBieXRlcyBhcmUgZmV3";

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn a_value_is_added_beside_others_and_removed_alone() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary } = servers;
        let solver = solver("127.0.0.1", "");
        let one = solver.record("www.example.com", "one").await.unwrap();
        let expected = TxtRecord {
            host: "www.example.com".to_owned(),
            name: "_acme-challenge.www.example.com".to_owned(),
            zone: "example.com".to_owned(),
            value: "one".to_owned(),
        };
        assert_eq!(one, expected);
        let two = TxtRecord { value: "two".to_owned(), ..one.clone() };
        for record in [&one, &two, &one] {
            solver.present(record).await.unwrap();
        }
        assert_eq!(primary.texts(&one.name), ["one", "two"]);
        for record in [&one, &two] {
            solver.propagated(record, in_seconds(20)).await.unwrap();
            assert!(secondary.texts(&one.name).contains(&record.value));
        }
        solver.clean_up(&one).await.unwrap();
        solver.clean_up(&one).await.unwrap();
        assert_eq!(primary.texts(&one.name), ["two"]);
        solver.clean_up(&two).await.unwrap();
        assert!(primary.texts(&one.name).is_empty());

        let wildcard = solver.record("*.Example.com", "x").await.unwrap();
        assert_eq!(wildcard.name, "_acme-challenge.example.com");
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn a_record_is_there_when_every_server_has_it() {
    with_servers("notify no;", |servers| async move {
        let Servers { primary, secondary } = servers;
        let solver = solver("127.0.0.1", "");
        let record = solver.record("www.example.com", "one").await.unwrap();
        solver.present(&record).await.unwrap();
        assert_eq!(primary.texts(&record.name), ["one"]);
        // Nobody has told the second server.
        let early = solver.propagated(&record, in_seconds(3)).await;
        let (kind, text) = told(early);
        assert_eq!(kind, IssueErrorKind::Pending);
        assert!(text.ends_with("yet: ns2.example.com does not have it"), "{text}");

        let waiting = tokio::spawn(async move {
            solver.propagated(&record, in_seconds(30)).await.map(|()| record)
        });
        tokio::task::yield_now().await;
        secondary.control(&["refresh", "example.com"]);
        let record = waiting.await.unwrap().unwrap();
        assert_eq!(secondary.texts(&record.name), ["one"]);

        // A server that is down is not waited for.
        drop(secondary);
        let solver = crate::solver("127.0.0.1", "");
        solver.propagated(&record, in_seconds(60)).await.unwrap();
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn a_refused_update_says_why() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary: _secondary } = servers;
        use IssueErrorKind::{Config, Unavailable};
        let record = solver("127.0.0.1", "").record("www.example.com", "x").await.unwrap();
        let elsewhere = TxtRecord { zone: "example.org".to_owned(), ..record.clone() };
        let outside = TxtRecord { name: "a.example.org".to_owned(), ..record.clone() };
        for (nameserver, key, algorithm, secret, record, kind, words) in [
            (
                "127.0.0.1",
                "nobody",
                "HMACSHA256",
                SECRET,
                &record,
                Config,
                "does not know the TSIG key nobody.",
            ),
            (
                "127.0.0.1",
                "certmount",
                "HMACSHA512",
                SECRET,
                &record,
                Config,
                "for another algorithm",
            ),
            (
                "127.0.0.1",
                "certmount",
                "HMACSHA256",
                "b3RoZXI=",
                &record,
                Config,
                "has another secret for the TSIG key certmount.",
            ),
            (
                "127.0.0.1",
                "stranger",
                "HMACSHA256",
                SECRET,
                &record,
                Config,
                "allow them in its update policy",
            ),
            (
                "127.0.0.1",
                "certmount",
                "HMACSHA256",
                SECRET,
                &elsewhere,
                Config,
                "not authoritative for the zone example.org",
            ),
            (
                "127.0.0.1",
                "certmount",
                "HMACSHA256",
                SECRET,
                &outside,
                Config,
                "does not have a.example.org in its zone",
            ),
            ("127.0.0.7", "certmount", "HMACSHA256", SECRET, &record, Unavailable, "is it running"),
        ] {
            for protocol in ["UDP", "TCP"] {
                let spec = rfc2136(nameserver, key, algorithm, protocol);
                let (seen, text) = told(build(&spec, secret).present(record).await);
                assert_eq!(seen, kind, "{text}");
                assert!(text.contains(words) && !text.contains(secret), "{text}");
                assert!(text.starts_with(&format!("the name server {nameserver}:53 ")), "{text}");
            }
        }
        assert!(primary.texts(&record.name).is_empty());
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn a_probe_says_what_an_update_would_run_into_and_changes_nothing() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary: _secondary } = servers;
        let solver = solver("127.0.0.1", "");
        let there = solver.record("www.example.com", "theirs").await.unwrap();
        solver.present(&there).await.unwrap();
        let serial = || primary.serial("example.com");
        let before = serial();
        let named = ["www.example.com".to_owned(), "*.api.example.com".to_owned()];
        for hosts in [&[][..], &named] {
            solver.probe(hosts).await.unwrap();
            for (key, algorithm, secret, words) in [
                ("nobody", "HMACSHA256", SECRET, "does not know the TSIG key nobody."),
                ("certmount", "HMACSHA512", SECRET, "for another algorithm"),
                ("certmount", "HMACSHA256", "b3RoZXI=", "has another secret for the TSIG key"),
            ] {
                let wrong = build(&rfc2136("127.0.0.1", key, algorithm, "UDP"), secret);
                let (kind, text) = told(wrong.probe(hosts).await);
                assert_eq!(kind, IssueErrorKind::Config, "{text}");
                assert!(text.contains(words), "{text}");
            }
        }
        let stranger = build(&rfc2136("127.0.0.1", "stranger", "HMACSHA256", "UDP"), SECRET);
        stranger.probe(&[]).await.unwrap();
        let (_, text) = told(stranger.probe(&named).await);
        assert!(text.contains("allow them in its update policy"), "{text}");
        let silent = build(&rfc2136("127.0.0.7", "certmount", "HMACSHA256", "UDP"), SECRET);
        assert_eq!(told(silent.probe(&[]).await).0, IssueErrorKind::Unavailable);
        assert_eq!((primary.texts(&there.name), serial()), (vec!["theirs".to_owned()], before));
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn every_algorithm_and_protocol_does() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary: _secondary } = servers;
        let record = solver("127.0.0.1", "").record("www.example.com", "x").await.unwrap();
        for (key, algorithm) in
            [("certmount", "HMACSHA256"), ("sha384", "HMACSHA384"), ("sha512", "HMACSHA512")]
        {
            for protocol in ["UDP", "TCP"] {
                let solver = build(&rfc2136("localhost", key, algorithm, protocol), SECRET);
                solver.present(&record).await.unwrap();
                assert_eq!(primary.texts(&record.name), ["x"], "{key} {protocol}");
                solver.clean_up(&record).await.unwrap();
                assert!(primary.texts(&record.name).is_empty());
            }
        }
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn an_alias_leads_to_where_the_record_goes() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary: _secondary } = servers;
        let following = solver("127.0.0.1", "cnameStrategy: Follow\n");
        let record = following.record("alias.example.com", "x").await.unwrap();
        assert_eq!(record.host, "alias.example.com");
        assert_eq!(record.name, "alias.validation.example.net");
        assert_eq!(record.zone, "validation.example.net");
        following.present(&record).await.unwrap();
        assert_eq!(primary.texts("alias.validation.example.net"), ["x"]);
        following.propagated(&record, in_seconds(20)).await.unwrap();
        // As the CA finds it.
        let at_alias =
            TxtRecord { name: "_acme-challenge.alias.example.com".to_owned(), ..record.clone() };
        following.propagated(&at_alias, in_seconds(20)).await.unwrap();
        following.clean_up(&record).await.unwrap();

        let record = solver("127.0.0.1", "").record("alias.example.com", "x").await.unwrap();
        assert_eq!(record.name, "_acme-challenge.alias.example.com");
        assert_eq!(record.zone, "example.com");

        let (kind, text) = told(following.record("chain0.example.com", "x").await.map(drop));
        assert_eq!(kind, IssueErrorKind::Config);
        assert!(text.contains("lead too far"), "{text}");
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn a_delegated_zone_is_asked_at_its_own_servers() {
    with_servers("", |servers| async move {
        let Servers { primary: _primary, secondary } = servers;
        let solver = solver("127.0.0.2", "");
        for host in ["child.example.com", "a.b.child.example.com"] {
            let record = solver.record(host, "x").await.unwrap();
            assert_eq!(record.zone, "child.example.com");
            solver.present(&record).await.unwrap();
            assert_eq!(secondary.texts(&record.name), ["x"]);
            solver.propagated(&record, in_seconds(20)).await.unwrap();
            solver.clean_up(&record).await.unwrap();
            let gone = solver.propagated(&record, in_seconds(2)).await;
            assert_eq!(told(gone).0, IssueErrorKind::Pending);
        }
        // The challenge's own name is a zone, of the server that has the zone above as well.
        let record = solver.record("apart.example.com", "x").await.unwrap();
        assert_eq!(record.zone, "_acme-challenge.apart.example.com");
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn only_the_named_servers_are_asked_where_that_is_wanted() {
    with_servers("notify no;", |servers| async move {
        let Servers { primary: _primary, secondary } = servers;
        let solver = solver("127.0.0.1", "nameserversOnly: true\n");
        let record = solver.record("www.example.com", "x").await.unwrap();
        assert_eq!(record.zone, "example.com");
        solver.present(&record).await.unwrap();
        // The second server does not have it, and is not asked.
        solver.propagated(&record, in_seconds(10)).await.unwrap();
        assert!(secondary.texts(&record.name).is_empty());
    });
}

#[test]
#[ignore = "needs BIND; .ci/run installs it"]
fn what_no_server_knows_is_told() {
    with_servers("", |servers| async move {
        let Servers { primary, secondary } = servers;
        let solver = solver("127.0.0.1", "");
        let (kind, text) = told(solver.record("www.example.org", "x").await.map(drop));
        assert_eq!(kind, IssueErrorKind::Unavailable);
        assert!(text.contains("127.0.0.1:53: it answers"), "{text}");
        let record = solver.record("www.example.com", "x").await.unwrap();
        drop((primary, secondary));
        let (kind, text) = told(solver.record("www.example.com", "x").await.map(drop));
        assert_eq!(kind, IssueErrorKind::Unavailable);
        assert!(text.contains("no name server answers where www.example.com is"), "{text}");
        let (kind, _) = told(solver.propagated(&record, in_seconds(2)).await);
        assert_eq!(kind, IssueErrorKind::Unavailable);
    });
}

struct Servers {
    /// Has `example.com` and `validation.example.net`.
    primary: Named,
    /// Has `example.com` from the primary, and `child.example.com`.
    secondary: Named,
}

/// Runs `body` with both servers, the first one with these options.
fn with_servers<F: Future<Output = ()>>(options: &str, body: impl FnOnce(Servers) -> F) {
    namespaced(|| {
        enter_own_network();
        let folder = tempfile::tempdir().unwrap();
        let mut keys = String::new();
        for (name, algorithm) in [
            ("certmount", "hmac-sha256"),
            ("sha384", "hmac-sha384"),
            ("sha512", "hmac-sha512"),
            ("stranger", "hmac-sha256"),
        ] {
            keys += &format!("key {name} {{ algorithm {algorithm}; secret \"{SECRET}\"; }};\n");
        }
        let zone = |name: &str| {
            format!(
                "zone {name} {{ type primary; file \"{name}\"; update-policy {{ \
                 grant certmount zonesub TXT; grant sha384 zonesub TXT; \
                 grant sha512 zonesub TXT; }}; }};\n"
            )
        };
        let zones = [
            zone("example.com"),
            zone("validation.example.net"),
            zone("_acme-challenge.apart.example.com"),
        ];
        let primary = Named::start(
            folder.path(),
            "127.0.0.1",
            &format!("notify-delay 0; {options}"),
            &(keys.clone() + &zones.concat()),
            &[
                ("example.com", EXAMPLE_COM),
                ("validation.example.net", &file("ns1.example.com.", "")),
                ("_acme-challenge.apart.example.com", &file("ns1.example.com.", "")),
            ],
        );
        let copy = "zone example.com { type secondary; primaries { 127.0.0.1; }; };\n";
        let mut secondary = Named::start(
            folder.path(),
            "127.0.0.2",
            "notify no;",
            &(keys + &zone("child.example.com") + copy),
            &[("child.example.com", &file("ns", "ns A 127.0.0.2\n"))],
        );
        secondary.wait_for("Transfer status: success");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body(Servers { primary, secondary }));
    });
}

const EXAMPLE_COM: &str = "\
$TTL 300
@ SOA ns1 root 1 3600 600 86400 60
@ NS ns1
@ NS ns2
ns1 A 127.0.0.1
ns2 A 127.0.0.2
www A 192.0.2.1
_acme-challenge.alias CNAME alias.validation.example.net.
$GENERATE 0-9 _acme-challenge.chain$ CNAME _acme-challenge.chain${1}
child NS ns.child
ns.child A 127.0.0.2
_acme-challenge.apart NS ns1
";

/// A zone with that server and those records.
fn file(server: &str, records: &str) -> String {
    format!(
        "$TTL 300\n@ SOA {server} root.example.com. 1 3600 600 86400 60\n@ NS {server}\n{records}"
    )
}

/// A solver that updates `nameserver` and looks around at the primary.
fn solver(nameserver: &str, more: &str) -> Dns01 {
    build(&(rfc2136(nameserver, "certmount", "HMACSHA256", "UDP") + more), SECRET)
}

fn rfc2136(nameserver: &str, key: &str, algorithm: &str, protocol: &str) -> String {
    format!(
        "nameservers: [127.0.0.1]\n\
         rfc2136: {{nameserver: {nameserver}, protocol: {protocol}, tsigKeyName: {key}, \
         tsigAlgorithm: {algorithm}, tsigSecretSecretRef: {{name: tsig, key: secret}}}}\n"
    )
}

fn build(spec: &str, secret: &str) -> Dns01 {
    let value = Zeroizing::new(secret.as_bytes().to_vec());
    let secret = SecretObject::new(None, "tsig".to_owned(), [("secret".to_owned(), value)]);
    let materials = Materials::default().with_secret("tsig", Ok(secret));
    let surroundings = Surroundings::new(Clock::system(), "node");
    let spec = serde_saphyr::from_str(spec).unwrap();
    Dns01::build(&spec, None, &materials, &surroundings).unwrap()
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn told(done: Result<(), IssueError>) -> (IssueErrorKind, String) {
    let error = done.expect_err("this fails");
    (error.kind, with_causes(&error))
}
