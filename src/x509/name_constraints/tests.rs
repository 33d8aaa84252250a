use std::slice::from_ref;

use super::*;
use crate::x509::fixture::template;

fn dns(text: &str) -> NameSubtree {
    NameSubtree::dns(text).unwrap()
}

fn permitting(permitted: &[NameSubtree]) -> NameConstraints {
    NameConstraints { permitted: permitted.to_vec(), excluded: Vec::new() }
}

fn excluding(excluded: &[NameSubtree]) -> NameConstraints {
    NameConstraints { permitted: Vec::new(), excluded: excluded.to_vec() }
}

#[test]
fn a_domain_permits_itself_and_what_is_below() {
    let constraints = permitting(&[dns("svc.cluster.local")]);
    for name in ["svc.cluster.local", "web.shop.svc.cluster.local", "*.shop.svc.cluster.local"] {
        assert!(constraints.allows(&GeneralName::dns(name).unwrap()), "{name}");
    }
    for name in ["cluster.local", "xsvc.cluster.local", "svc.cluster.local.example", "*.local"] {
        assert!(!constraints.allows(&GeneralName::dns(name).unwrap()), "{name}");
    }
    // Another kind of name is not meant.
    assert!(constraints.allows(&GeneralName::ip("10.0.0.1").unwrap()));
}

#[test]
fn what_is_excluded_is_so_though_it_is_permitted_and_by_a_wildcard_that_covers_it() {
    let mut constraints = excluding(&[dns("admin.example.com")]);
    constraints.permitted.push(dns("example.com"));
    for name in ["admin.example.com", "x.admin.example.com", "*.example.com", "*.admin.example.com"]
    {
        assert!(!constraints.allows(&GeneralName::dns(name).unwrap()), "{name}");
    }
    for name in ["example.com", "web.example.com", "*.web.example.com"] {
        assert!(constraints.allows(&GeneralName::dns(name).unwrap()), "{name}");
    }
}

#[test]
fn addresses_mailboxes_and_uris_are_held_against_their_own_kind() {
    let email = |text| GeneralName::email(text).unwrap();
    let ip = |text| GeneralName::ip(text).unwrap();
    let uri = |text| GeneralName::uri(text).unwrap();
    let cases: [(NameSubtree, &[GeneralName], &[GeneralName]); 8] = [
        (
            NameSubtree::ip("10.0.0.0/8").unwrap(),
            &[ip("10.1.2.3")],
            &[ip("11.0.0.1"), ip("2001:db8::1")],
        ),
        (NameSubtree::ip("10.0.0.1").unwrap(), &[ip("10.0.0.1")], &[ip("10.0.0.2")]),
        (NameSubtree::ip("2001:db8::/32").unwrap(), &[ip("2001:db8::9")], &[ip("2001:db9::9")]),
        (
            NameSubtree::email("jane@example.com").unwrap(),
            &[email("jane@EXAMPLE.com")],
            &[email("Jane@example.com"), email("joe@example.com")],
        ),
        (
            NameSubtree::email("example.com").unwrap(),
            &[email("joe@example.com")],
            &[email("joe@mail.example.com")],
        ),
        (
            NameSubtree::email(".example.com").unwrap(),
            &[email("joe@mail.example.com")],
            &[email("joe@example.com")],
        ),
        (
            NameSubtree::uri("cluster.local").unwrap(),
            &[uri("spiffe://cluster.local/ns/a/sa/b"), uri("https://joe@Cluster.Local:8443/x")],
            &[
                uri("spiffe://a.cluster.local/ns"),
                uri("https://10.0.0.1/"),
                uri("https://[2001:db8::1]:8443/"),
                uri("urn:example:cluster.local"),
                uri("https://evil.example/cluster.local"),
                uri("https://cluster.local@evil.example/"),
            ],
        ),
        (
            NameSubtree::uri(".example.com").unwrap(),
            &[uri("https://a.b.example.com")],
            &[uri("https://example.com")],
        ),
    ];
    for (subtree, within, outside) in cases {
        let permitting = permitting(from_ref(&subtree));
        let excluding = excluding(from_ref(&subtree));
        for name in within {
            assert!(permitting.allows(name) && !excluding.allows(name), "{subtree}: {name}");
        }
        for name in outside {
            assert!(!permitting.allows(name), "{subtree}: {name}");
        }
    }
}

#[test]
fn a_refusal_says_what_is_allowed_of_that_kind() {
    let mut constraints = permitting(&[dns("a.example"), NameSubtree::ip("10.0.0.0/8").unwrap()]);
    constraints.excluded.push(dns("x.a.example"));
    let refused = constraints.check(&template(&["b.a.example", "b.example"])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the name constraints above it do not allow dns:b.example; permitted: dns:a.example; \
         excluded: dns:x.a.example"
    );
    constraints.check(&template(&["b.a.example"])).unwrap();
}

#[test]
fn a_common_name_counts_where_verifiers_take_it_for_a_name() {
    let constraints = permitting(&[dns("a.example")]);
    let mut named = template(&[]);
    named.subject.push("CN", "b.example").unwrap();
    constraints.check(&named).unwrap_err();
    named.subject_alt_names.push(GeneralName::dns("web.a.example").unwrap());
    constraints.check(&named).unwrap();
    let mut plain = template(&[]);
    plain.subject.push("CN", "web").unwrap();
    constraints.check(&plain).unwrap();
}

#[test]
fn tighter_constraints_are_within_looser_ones_and_not_the_other_way_round() {
    let ip = |text| NameSubtree::ip(text).unwrap();
    let email = |text| NameSubtree::email(text).unwrap();
    let uri = |text| NameSubtree::uri(text).unwrap();
    let none = NameConstraints::default();
    for (tight, loose) in [
        (dns("a.example"), dns("example")),
        (ip("10.1.0.0/16"), ip("10.0.0.0/8")),
        (email("joe@a.example"), email("a.example")),
        (email("a.b.example"), email(".example")),
        (uri("a.b.example"), uri(".example")),
        (uri(".b.example"), uri(".example")),
    ] {
        let (permits, loosely) = (permitting(from_ref(&tight)), permitting(from_ref(&loose)));
        assert!(permits.is_within(&loosely), "{tight} {loose}");
        assert!(permits.is_within(&permits) && permits.is_within(&none));
        assert!(!loosely.is_within(&permits) && !none.is_within(&permits), "{tight} {loose}");
        let (excludes, more) = (excluding(&[tight]), excluding(&[loose]));
        assert!(more.is_within(&excludes) && !excludes.is_within(&more));
        assert!(!permits.is_within(&excludes));
    }
    // One of a kind that is within is not enough where another is not.
    let both = permitting(&[dns("a.example"), dns("b.test")]);
    assert!(!both.is_within(&permitting(&[dns("example")])));
    assert!(!ip("10.0.0.0/8").is_within(&ip("::/0")));
    assert!(!uri(".example").is_within(&uri("example")));
}

#[test]
fn what_verifiers_read_differently_is_refused() {
    for refused in [
        NameSubtree::dns(".example"),
        NameSubtree::dns("*.example"),
        NameSubtree::dns(""),
        NameSubtree::ip("10.0.0.1/8"),
        NameSubtree::ip("10.0.0.0/33"),
        NameSubtree::ip("10.0.0.0/"),
        NameSubtree::ip("example"),
        NameSubtree::email("@example"),
        NameSubtree::email("..example"),
        NameSubtree::uri("spiffe://example"),
        NameSubtree::uri("example/path"),
    ] {
        refused.unwrap_err();
    }
}

#[test]
fn masks_that_are_no_prefix_are_malformed() {
    let mask = |last: u8| range(&[10, 0, 0, 0, 255, 255, 0, last]);
    assert_eq!(mask(0), Some(NameSubtree::ip("10.0.0.0/16").unwrap()));
    assert_eq!(mask(1), None);
    assert_eq!(range(&[10, 0, 0, 0, 255]), None);
    assert_eq!(range(&[]), None);
    assert_eq!(range(&[0; 32]), Some(NameSubtree::ip("::/0").unwrap()));
}
