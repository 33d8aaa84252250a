use proptest::prelude::*;

use super::*;
use crate::spec::fixture::{pod as pod_named, spec};

fn pod() -> PodRef {
    pod_named("web", "web-0", "frontend")
}

fn request() -> CertificateSpec {
    spec(3600)
}

fn asking_for(names: impl IntoIterator<Item = GeneralName>) -> CertificateSpec {
    let mut spec = request();
    spec.template.subject_alt_names = names.into_iter().collect();
    spec
}

fn dns(name: &str) -> GeneralName {
    GeneralName::Dns(name.to_owned())
}

fn uri(uri: &str) -> GeneralName {
    GeneralName::Uri(uri.to_owned())
}

fn email(address: &str) -> GeneralName {
    GeneralName::Email(address.to_owned())
}

fn ip(address: &str) -> GeneralName {
    GeneralName::Ip(address.parse().unwrap())
}

fn subject(attributes: &[(&str, &str)]) -> CertificateSpec {
    let mut spec = request();
    for (kind, value) in attributes {
        spec.template.subject.push(kind, value).unwrap();
    }
    spec
}

fn policy(rules: &str) -> NamePolicy {
    serde_saphyr::from_str(rules).unwrap()
}

fn policy_error(rules: &str) -> String {
    serde_saphyr::from_str::<NamePolicy>(rules).unwrap_err().to_string()
}

/// The rule that a denial prints.
fn printed_rule(denied: &PolicyDenied) -> &str {
    let start = denied.0.find("\n- ").expect("the denial prints a rule");
    &denied.0[start..]
}

#[track_caller]
fn assert_allowed(policy: &NamePolicy, spec: &CertificateSpec) {
    policy.check(&pod(), None, spec).unwrap();
}

/// Asserts that `spec` is refused for `reason`, and that the printed rule allows it.
#[track_caller]
fn assert_denied(policy: &NamePolicy, spec: &CertificateSpec, reason: &str) {
    let denied = policy.check(&pod(), None, spec).unwrap_err();
    assert!(denied.0.contains(reason), "{denied}");
    let mut mended = policy.clone();
    mended.rules.extend(self::policy(printed_rule(&denied)).rules);
    mended.check(&pod(), None, spec).expect("the printed rule allows what was refused");
}

#[test]
fn without_a_policy_a_pod_gets_the_names_of_its_own_identity() {
    let policy = NamePolicy::default();
    for name in [
        dns("web.web.svc"),
        dns("web-0.web.web.svc"),
        dns("web.web.svc.cluster.local"),
        dns("web-0.web.pod"),
        uri("spiffe://cluster.local/ns/web/sa/frontend"),
    ] {
        assert_allowed(&policy, &asking_for([name]));
    }
    assert_allowed(&policy, &request());
}

#[test]
fn the_pod_s_address_is_asked_for_only_where_it_can_decide() {
    let ranges = policy("[{ipRanges: [10.0.0.0/24]}]");
    let hangs =
        |names: &[GeneralName]| ranges.hangs_on_pod_ip(&pod(), &asking_for(names.iter().cloned()));
    assert!(hangs(&[ip("10.9.0.7")]));
    assert!(hangs(&[ip("10.9.0.7"), ip("10.0.0.7"), dns("a.web.svc")]));
    assert!(ranges.hangs_on_pod_ip(&pod(), &subject(&[("CN", "10.9.0.7")])));
    assert!(!hangs(&[ip("10.0.0.7")]), "it is allowed whosever it is");
    assert!(!hangs(&[ip("10.9.0.7"), ip("10.9.0.8")]), "one is another's");
    assert!(!hangs(&[ip("10.9.0.7"), dns("a.other.svc")]), "it is refused anyway");
    assert!(!hangs(&[dns("a.web.svc")]));
    let mut long = asking_for([ip("10.9.0.7")]);
    long.duration = Duration::from_secs(7200);
    assert!(!policy("[{maxDuration: 1h}]").hangs_on_pod_ip(&pod(), &long));
}

#[test]
fn a_pod_gets_its_own_address_and_no_other() {
    let own: IpAddr = "10.0.0.7".parse().unwrap();
    let check = |policy: &NamePolicy, pod_ip, spec: &CertificateSpec| {
        policy.check(&pod(), pod_ip, spec).map_err(|denied| denied.0)
    };
    // A rule that says nothing of addresses takes none away either.
    for policy in [NamePolicy::default(), policy("[{dnsNames: [a.example], maxDuration: 24h}]")] {
        for spec in [asking_for([ip("10.0.0.7")]), subject(&[("CN", "10.0.0.7")])] {
            check(&policy, Some(own), &spec).unwrap();
            let unknown = check(&policy, None, &spec).unwrap_err();
            assert!(unknown.contains("10.0.0.7"), "{unknown}");
        }
        for other in ["10.0.0.8", "::ffff:10.0.0.7", "::1"] {
            let denied = check(&policy, Some(own), &asking_for([ip(other)])).unwrap_err();
            assert!(denied.contains(other), "{denied}");
        }
    }
    // It is no part of the rule that would allow the rest.
    let both = asking_for([ip("10.0.0.7"), ip("10.0.0.8")]);
    let denied = check(&NamePolicy::default(), Some(own), &both).unwrap_err();
    assert!(denied.contains("ipRanges: [\"10.0.0.8\"]"), "{denied}");
}

#[test]
fn without_a_policy_a_pod_gets_no_other_name() {
    let policy = NamePolicy::default();
    for name in [
        dns("web.other.svc"),
        dns("web.svc"),
        dns("web.web"),
        dns("example.com"),
        dns("web.web.svc.example.com"),
        dns("web.web.svc.cluster.local.example.com"),
        dns("evilweb.svc"),
        dns("web.web.svcx"),
        dns("web-1.web.pod"),
        dns("web-0.web.pod.cluster.local"),
        dns("web-0.other.pod"),
        dns("*.web.svc"),
        dns("*.web.web.svc.cluster.local"),
        dns("web..web.svc"),
        dns(".web.svc"),
        uri("spiffe://cluster.local/ns/web/sa/other"),
        uri("spiffe://cluster.local/ns/other/sa/frontend"),
        uri("spiffe://cluster.local/ns/web/sa/frontend/"),
        uri("spiffe://cluster.local/ns/web/sa/frontend?x"),
        uri("spiffe://cluster.local/ns/web/sa/../sa/frontend"),
        uri("spiffe://cluster.localx/ns/web/sa/frontend"),
        uri("SPIFFE://cluster.local/ns/web/sa/frontend"),
        ip("10.0.0.1"),
        ip("::1"),
        email("root@example.com"),
    ] {
        let spec = asking_for([name.clone()]);
        let denied = policy.check(&pod(), None, &spec).expect_err(&format!("{name:?}"));
        assert!(denied.0.contains(&name.value()), "{denied}");
    }
}

#[test]
fn one_bad_name_among_good_ones_is_refused_alone() {
    let denied = NamePolicy::default()
        .check(&pod(), None, &asking_for([dns("web.web.svc"), dns("example.com")]))
        .unwrap_err();
    assert_eq!(
        denied.0,
        "the issuer's policy does not allow pod \"web-0\" of namespace \"web\" \
         (service account \"frontend\") to have the DNS name \"example.com\"; \
         ask for something else, or add this rule to policy in the issuer's spec:\n\
         - namespaces: [\"web\"]\n  \
           serviceAccounts: [\"frontend\"]\n  \
           dnsNames: [\"example.com\"]"
    );
}

#[test]
fn cluster_and_trust_domain_are_the_drivers() {
    let policy = NamePolicy::default().in_cluster(Cluster {
        domain: "k8s.example.org".to_owned(),
        trust_domain: "example.org".to_owned(),
        node_name: "n1.internal".to_owned(),
    });
    assert_allowed(&policy, &asking_for([dns("web.web.svc.k8s.example.org")]));
    assert_allowed(&policy, &asking_for([uri("spiffe://example.org/ns/web/sa/frontend")]));
    assert_denied(&policy, &asking_for([dns("web.web.svc.cluster.local")]), "cluster.local");
    let node =
        self::policy("[{dnsNames: ['{node}', 'kubelet.{node}']}]").in_cluster(policy.cluster);
    assert_allowed(&node, &asking_for([dns("n1.internal"), dns("kubelet.n1.internal")]));
    assert_denied(&node, &asking_for([dns("n2.internal")]), "n2.internal");
}

#[test]
fn facts_with_separators_match_nothing() {
    let policy = policy(
        "[{dnsNames: ['{pod}.example.com', '{serviceAccount}.{namespace}.example.com'], \
           uris: ['https://{pod}.example.com/{serviceAccount}'], emailAddresses: ['{pod}@example.com']}]",
    );
    for (pod, name) in [
        (pod_named("web", "a.b", "c"), dns("a.b.example.com")),
        (pod_named("web", "*", "c"), dns("x.example.com")),
        (pod_named("web", "*", "c"), dns("*.example.com")),
        (pod_named("a.b", "x", "c"), dns("c.a.b.example.com")),
        (pod_named("web", "x", "a/b"), uri("https://x.example.com/a/b")),
        (pod_named("web", "", "c"), dns(".example.com")),
        (pod_named("web", "", ""), uri("https://.example.com/")),
        (pod_named("", "x", "y"), dns("x..svc")),
        (pod_named("*", "x", "y"), dns("x.kube-system.svc")),
        (pod_named("{node}", "x", "y"), dns("x.kube-system.svc")),
    ] {
        let denied = policy.check(&pod, None, &asking_for([name.clone()]));
        assert!(denied.is_err(), "{pod:?} {name:?}");
    }
}

#[test]
fn stars_stay_within_a_label_and_double_stars_go_to_the_left() {
    let rules =
        policy("[{dnsNames: ['*.a.example', 'web-*.b.example', '**.c.example', 'x*z.d.example']}]");
    for name in [
        "x.a.example",
        "web-1.b.example",
        "x.c.example",
        "x.y.c.example",
        "xz.d.example",
        "xyz.d.example",
        "web-.b.example",
    ] {
        assert_allowed(&rules, &asking_for([dns(name)]));
    }
    for name in [
        "a.example",
        "x.y.a.example",
        "web-1.x.b.example",
        "web.b.example",
        "c.example",
        "xy.d.example",
        "x.y.z.d.example",
        "*.a.example",
        "*.c.example",
        "*.x.c.example",
        "x.*.c.example",
        "xa.example",
        "web-*.b.example",
    ] {
        let denied = rules.check(&pod(), None, &asking_for([dns(name)]));
        assert!(denied.is_err(), "{name}");
    }
}

#[test]
fn a_wildcard_name_needs_a_literal_star() {
    let literal = policy("[{dnsNames: ['{*}.a.example']}]");
    assert_allowed(&literal, &asking_for([dns("*.a.example")]));
    assert_denied(&literal, &asking_for([dns("x.a.example")]), "x.a.example");
    assert_denied(&NamePolicy::default(), &asking_for([dns("*.web.svc")]), "*.web.svc");
    let own = policy("[{dnsNames: ['{*}.{namespace}.svc']}]");
    assert_allowed(&own, &asking_for([dns("*.web.svc")]));
    assert_denied(&own, &asking_for([dns("*.other.svc")]), "*.other.svc");
}

#[test]
fn stars_in_uris_take_no_character_with_a_meaning() {
    let rules = policy(
        "[{uris: ['spiffe://td.example/ns/{namespace}/*', 'https://*.example.com/cb', 'spiffe://deep.example/**']}]",
    );
    for name in [
        "spiffe://td.example/ns/web/x",
        "https://a.example.com/cb",
        "spiffe://deep.example/a",
        "spiffe://deep.example/a/b",
    ] {
        assert_allowed(&rules, &asking_for([uri(name)]));
    }
    for name in [
        "spiffe://td.example/ns/web/x/y",
        "spiffe://td.example/ns/web/..",
        "spiffe://td.example/ns/web/x%2fy",
        "spiffe://td.example/ns/web/x?q",
        "spiffe://td.example/ns/web/x#f",
        "spiffe://td.example/ns/other/x",
        "https://evil.com@a.example.com/cb",
        "https://evil.com:80.example.com/cb",
        "https://a.b.example.com/cb",
        "https://evil.com#.example.com/cb",
        "spiffe://deep.example",
        "spiffe://deep.example/",
        "spiffe://deep.example//a",
        "spiffe://deep.example/a/../b",
        "spiffe://deep.example/a/%2e%2e/b",
    ] {
        let denied = rules.check(&pod(), None, &asking_for([uri(name)]));
        assert!(denied.is_err(), "{name}");
    }
}

#[test]
fn addresses_are_allowed_by_range() {
    let rules = policy(
        "[{ipRanges: [10.0.0.0/8, '2001:db8::/32', 192.0.2.7, '0.0.0.0/0'], namespaces: [web]}]",
    );
    let narrow = policy("[{ipRanges: [10.128.0.0/9, '2001:db8::/32', 192.0.2.7]}]");
    for address in ["10.200.0.1", "2001:db8:ffff::1", "192.0.2.7"] {
        assert_allowed(&narrow, &asking_for([ip(address)]));
    }
    for address in ["10.1.0.1", "2001:db9::1", "192.0.2.8", "::ffff:10.200.0.1", "::"] {
        assert_denied(&narrow, &asking_for([ip(address)]), address);
    }
    assert_allowed(&rules, &asking_for([ip("198.51.100.1")]));
    assert_denied(&rules, &asking_for([ip("::1")]), "::1");
    assert_allowed(&policy("[{ipRanges: ['::/0']}]"), &asking_for([ip("ffff::1")]));
    for bad in [
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "10.0.0/8",
        "x",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
    ] {
        assert!(policy_error(&format!("[{{ipRanges: ['{bad}']}}]")).contains(bad), "{bad}");
    }
}

#[test]
fn email_addresses_are_matched_on_both_sides_of_the_last_at() {
    let rules = policy("[{emailAddresses: ['{serviceAccount}@mail.example', '*@web.example']}]");
    for address in ["frontend@mail.example", "frontend@MAIL.example", "any.body+tag@web.example"] {
        assert_allowed(&rules, &asking_for([email(address)]));
    }
    for address in [
        "root@mail.example",
        "Frontend@mail.example",
        "x@evil.example@web.example",
        "x@a.web.example",
    ] {
        assert_denied(&rules, &asking_for([email(address)]), address);
    }
}

#[test]
fn a_common_name_is_a_granted_name_or_named_by_the_rule() {
    let none = NamePolicy::default();
    assert_allowed(&none, &subject(&[("CN", "web.web.svc")]));
    assert_allowed(&none, &subject(&[("CN", "WEB.web.svc")]));
    assert_allowed(&none, &subject(&[("CN", "spiffe://cluster.local/ns/web/sa/frontend")]));
    for name in ["web", "system:admin", "web.other.svc", "ｗeb.web.svc", "10.0.0.1"] {
        assert_denied(&none, &subject(&[("CN", name)]), name);
    }
    // The second common name is looked at as well.
    assert_denied(&none, &subject(&[("CN", "web.web.svc"), ("CN", "admin")]), "admin");

    let named = policy(
        "[{commonNames: ['{serviceAccount}', 'app-*'], dnsNames: ['*.example.com'], ipRanges: [10.0.0.0/8]}]",
    );
    for name in ["frontend", "app-1", "x.example.com", "10.0.0.1"] {
        assert_allowed(&named, &subject(&[("CN", name)]));
    }
    for name in ["app-1:admin", "app-1.example.net", "backend"] {
        assert_denied(&named, &subject(&[("CN", name)]), name);
    }
    assert_allowed(&policy("[{commonNames: ['**']}]"), &subject(&[("CN", "system:admin")]));
}

#[test]
fn the_rest_of_a_subject_is_refused_unless_a_rule_names_it() {
    let none = NamePolicy::default();
    assert_denied(&none, &subject(&[("O", "system:masters")]), "O=\"system:masters\"");
    assert_denied(&none, &subject(&[("OU", "a"), ("OU", "b"), ("C", "DE")]), "OU=\"b\"");
    assert_denied(&none, &subject(&[("1.2.3.4", "x")]), "1.2.3.4=\"x\"");
    let mut hidden = request();
    hidden.template.subject = DistinguishedName::from_rfc4514("O=#1e0600410043004d").unwrap();
    assert_denied(&none, &hidden, "#1e06");

    let rules = policy("[{subject: {o: [Example], OU: ['team-*', '{namespace}']}}]");
    assert_allowed(&rules, &subject(&[("O", "Example"), ("OU", "team-a"), ("OU", "web")]));
    assert_denied(&rules, &subject(&[("O", "Example"), ("OU", "system:masters")]), "OU=");
    assert_denied(&rules, &subject(&[("O", "system:masters")]), "O=");
    assert!(policy_error("[{subject: {CN: [x]}}]").contains("use commonNames"));
    assert!(policy_error("[{subject: {Organisation: [x]}}]").contains("Organisation"));
}

#[test]
fn rules_apply_by_namespace_and_service_account() {
    let rules = policy(
        "[{namespaces: ['web', 'team-*'], serviceAccounts: [frontend], dnsNames: [a.example]}]",
    );
    let spec = asking_for([dns("a.example")]);
    for (namespace, account, allowed) in [
        ("web", "frontend", true),
        ("team-a", "frontend", true),
        ("web", "backend", false),
        ("web2", "frontend", false),
        ("team", "frontend", false),
        ("*", "frontend", false),
        ("", "", false),
    ] {
        let checked = rules.check(&pod_named(namespace, "p", account), None, &spec);
        assert_eq!(checked.is_ok(), allowed, "{namespace}/{account}");
    }
    assert!(policy_error("[{namespaces: []}]").contains("leave the field out"));
    assert!(policy_error("[{namespaces: ['{namespace}']}]").contains("not a pattern"));
}

#[test]
fn usages_of_tls_are_allowed_and_others_need_a_rule() {
    let with = |names: &[&str]| {
        let mut spec = asking_for([dns("web.web.svc")]);
        spec.template.usages = KeyUsages::parse(names.iter().copied()).unwrap();
        spec
    };
    let none = NamePolicy::default();
    assert_allowed(
        &none,
        &with(&[
            "digital signature",
            "key encipherment",
            "key agreement",
            "server auth",
            "client auth",
        ]),
    );
    for usage in ["code signing", "cert sign", "any", "email protection", "ocsp signing", "1.2.3.4"]
    {
        assert_denied(&none, &with(&[usage]), usage);
    }
    // What a rule lists is all that it allows.
    let clients = policy("[{usages: [client auth]}]");
    assert_allowed(&clients, &with(&["digital signature", "client auth"]));
    assert_denied(&clients, &with(&["server auth"]), "server auth");
    assert!(policy_error("[{usages: [client autch]}]").contains("client autch"));
}

#[test]
fn only_a_rule_makes_cas() {
    let mut spec = asking_for([dns("web.web.svc")]);
    spec.template.basic_constraints = BasicConstraints::Ca { path_len: None };
    assert_denied(&NamePolicy::default(), &spec, "a CA certificate");
    assert_denied(&policy("[{dnsNames: ['**.svc']}]"), &spec, "a CA certificate");
    assert_allowed(&policy("[{isCA: true}]"), &spec);
    // It grants no name that it does not have.
    spec.template.subject_alt_names.push(dns("example.com"));
    assert_denied(&policy("[{isCA: true}, {dnsNames: [example.com]}]"), &spec, "a CA certificate");
}

#[test]
fn durations_and_algorithms_are_limited_by_the_rule_that_has_the_names() {
    let rules = policy(
        "[{dnsNames: ['*.short.example'], maxDuration: 1h}, \
          {dnsNames: ['*.long.example'], maxDuration: 2160h, keyAlgorithms: [ECDSA-384, Ed25519]}]",
    );
    let mut spec = asking_for([dns("a.short.example")]);
    assert_allowed(&rules, &spec);
    spec.duration = Duration::from_secs(3601);
    assert_denied(&rules, &spec, "more than 1h");
    spec = asking_for([dns("a.long.example")]);
    assert_denied(&rules, &spec, "a key of ECDSA P-256");
    spec.key_algorithm = EcdsaP384;
    spec.duration = Duration::from_secs(2160 * 3600);
    assert_allowed(&rules, &spec);
    // No rule stretches the limit of the other.
    spec.template.subject_alt_names.push(dns("a.short.example"));
    assert_denied(&rules, &spec, "more than 1h");
    // A pod's own names are under the conditions of the rules that apply to it.
    spec = asking_for([dns("web.web.svc")]);
    spec.key_algorithm = Ed25519;
    spec.duration = Duration::from_secs(2161 * 3600);
    assert_denied(&rules, &spec, "more than 2160h");
    assert!(policy_error("[{keyAlgorithms: [RSA-1024]}]").contains("RSA-1024"));
    assert!(policy_error("[{maxDuration: 90d}]").contains("90d"));
}

#[test]
fn names_may_come_from_several_rules() {
    let rules = policy("[{dnsNames: [a.example]}, {namespaces: [web], dnsNames: [b.example]}]");
    let spec = asking_for([dns("a.example"), dns("b.example"), dns("web.web.svc")]);
    assert_allowed(&rules, &spec);
    let other = pod_named("other", "p", "s");
    assert!(rules.check(&other, None, &asking_for([dns("a.example"), dns("b.example")])).is_err());
}

#[test]
fn bad_patterns_say_what_to_write() {
    for (rule, said) in [
        ("dnsNames: ['a..b']", "extra dot"),
        ("dnsNames: ['']", "extra dot"),
        ("dnsNames: ['a.**.b']", "left-most"),
        ("dnsNames: ['bücher.example']", "xn--"),
        ("dnsNames: ['a b.example']", "no DNS name"),
        ("dnsNames: ['{pods}.example']", "{serviceAccount}"),
        ("dnsNames: ['{pod.example']", "without its }"),
        ("dnsNames: ['pod}.example']", "without its {"),
        ("dnsNames: ['a{clusterDomain}']", "between dots"),
        ("dnsNames: ['a.{*}.b']", "left-most"),
        ("uris: ['*']", "scheme"),
        ("uris: ['spiffe://**']", "every host"),
        ("uris: ['spiffe:/**']", "every host"),
        ("uris: ['spiffe:///a**']", "last segment"),
        ("emailAddresses: ['example.com']", "no @"),
        ("commonNames: ['a**']", "stands alone"),
        ("dnsName: [a]", "dnsName"),
        ("dnsNames: a", "sequence"),
    ] {
        let error = policy_error(&format!("[{{{rule}}}]"));
        assert!(error.contains(said), "{rule}: {error}");
    }
}

#[test]
fn a_denial_shows_hostile_text_without_its_power() {
    let hostile = "a\n- isCA: true\r\u{1b}[2J\u{202e}\u{2028}\"'{}*#";
    let spec = subject(&[("O", hostile)]);
    let denied = NamePolicy::default().check(&pod(), None, &spec).unwrap_err();
    assert!(!denied.0.contains(['\r', '\u{1b}', '\u{202e}', '\u{2028}']), "{denied}");
    assert_eq!(denied.0.matches('\n').count(), 3, "{denied}");
    assert_denied(&NamePolicy::default(), &spec, "O=");
}

#[test]
fn a_denial_stays_short() {
    let many = (0..500).map(|n| dns(&format!("{n}.{}.example.com", "x".repeat(60))));
    let denied = NamePolicy::default().check(&pod(), None, &asking_for(many)).unwrap_err();
    assert!(denied.0.len() < 2048 && denied.0.contains("and 492 more"), "{denied}");
    // Stars in a namespace would make the printed rule apply to others.
    let denied =
        NamePolicy::default().check(&pod_named("*", "p", "s"), None, &asking_for([ip("::1")]));
    assert!(!denied.unwrap_err().0.contains("namespaces:"));
}

/// Names that no request can hold among those that one can.
fn any_name() -> impl Strategy<Value = GeneralName> {
    let label = "[a-z0-9*-]{1,3}|web|svc|cluster|local|other|pod";
    let labels = prop::collection::vec(label, 1..6);
    prop_oneof![
        labels.prop_map(|labels| GeneralName::Dns(labels.join("."))),
        "(spiffe|https)://(cluster.local|x)(/(ns|sa|web|frontend|\\.\\.|[a-z%?#*{}]{1,2})){0,5}"
            .prop_map(GeneralName::Uri),
        "[a-z*{}@]{1,4}@(web|example)\\.(svc|com)".prop_map(GeneralName::Email),
        any::<IpAddr>().prop_map(GeneralName::Ip),
    ]
}

fn valid_name() -> impl Strategy<Value = GeneralName> {
    any_name().prop_filter_map("a valid name", |name| match name {
        GeneralName::Dns(name) => GeneralName::dns(&name).ok(),
        GeneralName::Email(address) => GeneralName::email(&address).ok(),
        GeneralName::Ip(address) => Some(GeneralName::Ip(address)),
        // Servers may take these for another URI, so that no pattern allows them.
        GeneralName::Uri(uri) if uri.contains("..") => None,
        GeneralName::Uri(uri) => GeneralName::uri(&uri).ok(),
    })
}

proptest! {
    #[test]
    fn no_name_outside_the_namespace_is_allowed_without_a_rule(name in any_name()) {
        if NamePolicy::default().check(&pod(), None, &asking_for([name.clone()])).is_ok() {
            let own = match &name {
                GeneralName::Dns(name) => {
                    (name.ends_with(".web.svc") || name.ends_with(".web.svc.cluster.local") || name == "web-0.web.pod")
                        && !name.contains('*')
                }
                GeneralName::Uri(uri) => uri == "spiffe://cluster.local/ns/web/sa/frontend",
                GeneralName::Email(_) | GeneralName::Ip(_) => false,
            };
            prop_assert!(own, "{name:?}");
        }
    }

    #[test]
    fn the_printed_rule_allows_exactly_what_was_refused(
        names in prop::collection::vec(valid_name(), 1..5),
        other in valid_name(),
        organization in "[^\0]{1,12}",
        common_name in "[^\0]{1,12}",
    ) {
        let mut spec = asking_for(names.iter().cloned());
        spec.template.subject.push("O", &organization).unwrap();
        spec.template.subject.push("CN", &common_name).unwrap();
        let denied = NamePolicy::default().check(&pod(), None, &spec).unwrap_err();
        let printed = policy(printed_rule(&denied));
        printed.check(&pod(), None, &spec).map_err(|e| TestCaseError::fail(format!("{e} {denied}")))?;
        // Nobody else gets it, and no other name comes with it.
        prop_assert!(printed.check(&pod_named("web", "web-0", "backend"), None, &spec).is_err());
        let alone = asking_for([other.clone()]);
        if !names.contains(&other) && NamePolicy::default().check(&pod(), None, &alone).is_err() {
            prop_assert!(printed.check(&pod(), None, &alone).is_err(), "{other:?} {denied}");
        }
    }

    #[test]
    fn patterns_and_names_never_panic(pattern in any::<String>(), odd in "[*{}./:@a-z-]{0,12}", name in any::<String>()) {
        let facts = Facts {
            namespace: &name, pod: &odd, pod_ip: None, service_account: &name, node: &odd, cluster_domain: &name, trust_domain: &name,
        };
        for pattern in [&pattern, &odd] {
            let _ = pattern.parse::<DnsPattern>().map(|p| p.matches(&name, &facts));
            let _ = pattern.parse::<UriPattern>().map(|p| p.matches(&name, &facts));
            let _ = pattern.parse::<EmailPattern>().map(|p| p.matches(&name, &facts));
            let _ = pattern.parse::<TextPattern>().map(|p| p.matches(&name, &facts));
            let _ = pattern.parse::<NameGlob>().map(|p| p.matches(&name, &facts));
            let _ = pattern.parse::<IpRange>();
        }
    }

    #[test]
    fn an_escaped_text_matches_itself_only(text in "[a-z{}*]{1,8}", other in "[a-z{}*]{1,8}") {
        let facts = Facts { namespace: "a", pod: "b", pod_ip: None, service_account: "c", node: "d", cluster_domain: "e", trust_domain: "f" };
        let pattern: TextPattern = glob::escape(&text).parse().unwrap();
        prop_assert!(pattern.matches(&text, &facts));
        prop_assert_eq!(pattern.matches(&other, &facts), text == other);
    }
}
