use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::fixture::*;
use super::super::*;
use crate::clock::Timestamp;

#[test]
fn every_algorithm_signs_every_other_and_survives_saving() {
    for ca_algorithm in ALGORITHMS {
        let ca = root("CN=root", ca_algorithm);
        for algorithm in ALGORITHMS {
            let (key, template) = (key(algorithm), template(&["web.example"]));
            let bundle = check(&key, issue(&ca, &template, &key), &template).unwrap();
            let saved = Bundle::from_state(&bundle.to_state()).unwrap();
            assert_eq!(saved.key().pkcs8_der(), key.pkcs8_der());
            assert_eq!(saved.leaf(), bundle.leaf());
            assert_eq!(saved.leaf().names(), ["dns:web.example"]);
            assert_eq!(saved.trust_anchors(), ca.trust_anchors());
            assert_eq!(saved.intermediates(), []);
        }
    }
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let Web { ca, template, key: other } = web();
    let issued = issue(&ca, &template, &other);
    let error = check(&key(KeyAlgorithm::EcdsaP256), issued, &template).unwrap_err();
    assert!(matches!(error, BundleError::OtherKey));
}

#[test]
fn every_name_has_to_be_there_and_no_other() {
    let asked = [GeneralName::dns("web.example"), GeneralName::ip("10.0.0.1")];
    let asked = asked.map(Result::unwrap);
    let Web { ca, mut template, key } = web();
    for (granted, message) in [
        (&asked[..], ""),
        (
            &asked[1..],
            "the issuer's certificate lacks dns:web.example; check which names the issuer may sign",
        ),
        (
            &[],
            "the issuer's certificate lacks dns:web.example, ip:10.0.0.1; check which names the issuer may sign",
        ),
        (
            &[&asked[..], &[GeneralName::dns("*.example").unwrap()]].concat(),
            "the issuer's certificate holds dns:*.example, which nobody asked for",
        ),
    ] {
        template.subject_alt_names = granted.to_vec();
        let issued = issue(&ca, &template, &key);
        template.subject_alt_names = asked.to_vec();
        let result = check(&key, issued, &template);
        assert_eq!(result.err().map(|e| e.to_string()).unwrap_or_default(), message);
    }
}

#[test]
fn a_ca_may_repeat_the_common_name_among_the_names_and_change_the_subject() {
    let Web { ca, mut template, key } = web();
    template.subject.push("CN", "Www.Example").unwrap();
    let mut granted = template.clone();
    granted.subject = DistinguishedName::from_rfc4514("O=added by the CA").unwrap();
    granted.subject_alt_names.push(GeneralName::dns("www.example").unwrap());
    check(&key, issue(&ca, &granted, &key), &template).unwrap();
    granted.subject_alt_names.push(GeneralName::dns("mail.example").unwrap());
    let error = check(&key, issue(&ca, &granted, &key), &template).unwrap_err();
    assert!(matches!(error, BundleError::ExtraNames { names } if names == ["dns:mail.example"]));
}

#[test]
fn a_ca_only_if_asked_and_then_for_sure() {
    let Web { ca, template, key } = web();
    let constraints = BasicConstraints::Ca { path_len: Some(0) };
    let as_ca = Template { basic_constraints: constraints, ..template.clone() };
    let error = check(&key, issue(&ca, &as_ca, &key), &template).unwrap_err();
    assert!(matches!(error, BundleError::UnaskedCa));
    let error = check(&key, issue(&ca, &template, &key), &as_ca).unwrap_err();
    assert!(matches!(error, BundleError::NotACa));
    check(&key, issue(&ca, &as_ca, &key), &as_ca).unwrap();
}

#[test]
fn missing_usages_are_named_together_with_those_granted() {
    let Web { ca, template, key } = web();
    let granted = |names: &[&str]| {
        let usages = KeyUsages::parse(names.iter().copied()).unwrap();
        issue(&ca, &Template { usages, ..template.clone() }, &key)
    };
    let error = check(&key, granted(&["signing", "server auth"]), &template).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the issuer's certificate is not good for client auth, only for server auth; \
         ask for less, or use another issuer"
    );
    for enough in [&["signing"][..], &["any"], &["server auth", "client auth", "code signing"]] {
        check(&key, granted(enough), &template).unwrap();
    }
}

#[test]
fn a_chain_is_put_in_order_and_roots_become_anchors() {
    let root = root("CN=root", KeyAlgorithm::EcdsaP384);
    let first = intermediate("CN=1", &root);
    let ca = intermediate("CN=2", &first);
    let (key, template) = (key(KeyAlgorithm::EcdsaP256), template(&["web.example"]));
    let leaf = sign(&ca, &template, &key);
    let [leaf, ca, first, root] =
        [&leaf, ca.certificate(), first.certificate(), root.certificate()].map(Clone::clone);
    for chain in [
        [&leaf, &ca, &first, &root],
        [&leaf, &root, &first, &ca],
        [&root, &first, &ca, &leaf],
        [&first, &leaf, &root, &ca],
    ] {
        // Twice each: duplicates change nothing.
        let chain: Vec<_> = chain.into_iter().cycle().take(8).cloned().collect();
        let issued = Issued { chain, trust_anchors: Vec::new() };
        let bundle = check(&key, issued, &template).unwrap();
        assert_eq!(bundle.leaf(), &leaf);
        assert_eq!(bundle.intermediates(), [ca.clone(), first.clone()]);
        assert_eq!(bundle.trust_anchors(), vec![root.clone()]);
    }
}

#[test]
fn given_anchors_win_over_what_came_with_the_chain() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP256);
    let ca = intermediate("CN=1", &parent);
    let unrelated = root("CN=unrelated", KeyAlgorithm::EcdsaP256).certificate().clone();
    let (key, template) = (key(KeyAlgorithm::EcdsaP256), template(&["web.example"]));
    let leaf = sign(&ca, &template, &key);
    let [ca, root] = [ca.certificate(), parent.certificate()].map(Clone::clone);
    let anchored = |chain: &[&Certificate], anchors: &[&Certificate]| {
        let [chain, trust_anchors] =
            [chain, anchors].map(|some| some.iter().copied().cloned().collect());
        check(&key, Issued { chain, trust_anchors }, &template)
            .map(|bundle| bundle.trust_anchors().to_vec())
    };
    // An anchor need not be a root, and others may be next to it.
    assert_eq!(anchored(&[&leaf, &ca, &root], &[&ca, &ca]).unwrap(), vec![ca.clone()]);
    let both = anchored(&[&leaf, &ca], &[&unrelated, &root]).unwrap();
    assert_eq!(both, [unrelated.clone(), root.clone()]);
    // Without any, it is the root that signed, or else the top-most.
    assert_eq!(anchored(&[&leaf, &ca, &unrelated, &root], &[]).unwrap(), vec![root.clone()]);
    assert_eq!(anchored(&[&leaf, &ca], &[]).unwrap(), vec![ca.clone()]);
    assert_eq!(anchored(&[&leaf], &[]).unwrap(), []);
    let error = anchored(&[&leaf, &ca], &[&unrelated]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the issuer's chain does not lead to any of its trust anchors; \
         it ends with \"CN=1\", whose issuer is \"CN=root\""
    );
    let error = anchored(&[&leaf], &[&root]).unwrap_err();
    assert!(matches!(error, BundleError::Unanchored { issuer, .. } if issuer == "CN=1"));
}

#[test]
fn a_chain_that_does_not_hold_together_is_refused() {
    let Web { ca, template, key } = web();
    let leaf = sign(&ca, &template, &key);
    let broken = |second: &Certificate| {
        let issued =
            Issued { chain: vec![leaf.clone(), second.clone()], trust_anchors: Vec::new() };
        check(&key, issued, &template).unwrap_err().to_string()
    };
    let other = root("CN=other", KeyAlgorithm::EcdsaP256);
    assert_eq!(
        broken(other.certificate()),
        "the issuer's chain is broken: nothing in it signed \"dns:web.example\", whose issuer is \"CN=root\": \
         no certificate of that issuer is there"
    );
    let namesake = root("CN=root", KeyAlgorithm::EcdsaP256);
    assert!(
        broken(namesake.certificate())
            .ends_with("the signature is not by the key of that issuer's certificate")
    );
}

#[test]
fn only_cas_that_may_sign_that_deep_count() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP256);
    let (key, template) = (key(KeyAlgorithm::EcdsaP256), template(&["web.example"]));
    // A leaf of somebody else's that signs as if it were a CA.
    let impostor = forged_ca("CN=impostor", BasicConstraints::EndEntity, &parent);
    let shallow = forged_ca("CN=shallow", BasicConstraints::Ca { path_len: Some(0) }, &parent);
    let deep = forged_ca("CN=deep", BasicConstraints::Ca { path_len: None }, &shallow.0);
    let enough = forged_ca("CN=enough", BasicConstraints::Ca { path_len: Some(0) }, &parent);
    for (ca, above, signer) in [
        (&impostor, vec![], Some("CN=impostor")),
        (&deep, vec![shallow.1], Some("CN=shallow")),
        (&enough, vec![], None),
    ] {
        let chain = [vec![sign(&ca.0, &template, &key), ca.1.clone()], above].concat();
        let issued = Issued { chain, trust_anchors: parent.trust_anchors().to_vec() };
        match (check(&key, issued, &template), signer) {
            (Ok(_), None) => {}
            (Err(BundleError::NotAnIssuer { subject }), Some(signer)) => {
                assert_eq!(subject, signer)
            }
            (result, signer) => panic!("{result:?}, {signer:?}"),
        }
    }
}

/// A CA whose certificate `parent` signed with `constraints`, which it does not keep to.
fn forged_ca(
    subject: &str,
    constraints: BasicConstraints,
    parent: &CertificateAuthority,
) -> (CertificateAuthority, Certificate) {
    let key = key(KeyAlgorithm::EcdsaP256);
    let template = Template { basic_constraints: constraints, ..ca_template(subject) };
    let certificate = sign(parent, &template, &key);
    let information = AuthorityInformation::default();
    let honest = self_sign(&ca_template(subject), &key, validity(), &information).unwrap();
    (CertificateAuthority::new(vec![honest], Vec::new(), key).unwrap(), certificate)
}

#[test]
fn an_answer_without_certificates_or_with_too_many_is_refused() {
    let Web { ca, template, key } = web();
    let none = Issued { chain: Vec::new(), trust_anchors: ca.trust_anchors().to_vec() };
    assert!(matches!(check(&key, none, &template).unwrap_err(), BundleError::Empty));
    let chain = vec![sign(&ca, &template, &key); 17];
    let many = Issued { chain, trust_anchors: Vec::new() };
    let error = check(&key, many, &template).unwrap_err();
    assert!(matches!(error, BundleError::TooMany { count: 17 }));
    let chain = vec![sign(&ca, &template, &key)];
    let anchors = |count| vec![ca.trust_anchors()[0].clone(); count];
    let all = Issued { chain: chain.clone(), trust_anchors: anchors(MOST_TRUST_ANCHORS) };
    check(&key, all, &template).unwrap();
    let many = Issued { chain, trust_anchors: anchors(MOST_TRUST_ANCHORS + 1) };
    let error = check(&key, many, &template).unwrap_err();
    assert!(error.to_string().contains("201 trust anchors"), "{error}");
}

#[test]
fn the_leaf_holds_now_and_for_a_while() {
    let Web { ca, template, key } = web();
    let at = |now: Timestamp| {
        let issued = issue(&ca, &template, &key);
        let result = Bundle::new(Arc::clone(&key), issued, &template, LIFETIME, now);
        result.map(|_| ()).map_err(|error| error.to_string())
    };
    let Validity { not_before, not_after } = validity();
    let minute = Duration::from_secs(60);
    assert_eq!(at(not_before - 5 * minute), Ok(()));
    assert_eq!(
        at(not_before - 90 * minute),
        Err("the certificate \"dns:web.example\" holds from 2026-03-01T11:00:00Z: this node's clock is behind \
             the issuer by 1h 30m or more; set the node's time"
            .to_owned())
    );
    assert_eq!(at(not_after - 145 * minute), Ok(()));
    assert_eq!(
        at(not_after - 143 * minute),
        Err("the certificate expires at 2026-03-02T12:00:00Z, with less than a tenth of its life \
             of 1day left"
            .to_owned())
    );
    assert_eq!(
        at(not_after + minute),
        Err("the certificate \"dns:web.example\" expired at 2026-03-02T12:00:00Z".to_owned())
    );
}

#[test]
fn everything_above_the_leaf_holds_now() {
    let root = root("CN=root", KeyAlgorithm::EcdsaP256);
    let (ca_key, template) = (key(KeyAlgorithm::EcdsaP256), template(&["web.example"]));
    let expired = Validity { not_after: now() - Duration::from_secs(1), ..validity() };
    let information = AuthorityInformation::default();
    let ca_template = ca_template("CN=expired");
    let ca = root.sign(&ca_template, ca_key.public_key_info(), expired, &information).unwrap();
    let ca = CertificateAuthority::new(vec![ca], root.trust_anchors().to_vec(), ca_key).unwrap();
    let key = key(KeyAlgorithm::EcdsaP256);
    let error = check(&key, issue(&ca, &template, &key), &template).unwrap_err();
    assert!(matches!(error, BundleError::Expired { subject, .. } if subject == "CN=expired"));
}

#[test]
fn a_root_renewed_with_its_key_does_not_need_its_old_self() {
    let root_key = key(KeyAlgorithm::EcdsaP256);
    let information = AuthorityInformation::default();
    let self_signed =
        |validity| self_sign(&ca_template("CN=root"), &root_key, validity, &information).unwrap();
    let old = self_signed(Validity { not_after: now() - Duration::from_secs(1), ..validity() });
    let new = self_signed(validity());
    let ca = CertificateAuthority::new(vec![new.clone()], Vec::new(), root_key).unwrap();
    let (key, template) = (key(KeyAlgorithm::EcdsaP256), template(&["web.example"]));
    let chain = vec![sign(&ca, &template, &key)];
    let both = Issued { chain: chain.clone(), trust_anchors: vec![old.clone(), new] };
    assert_eq!(check(&key, both, &template).unwrap().trust_anchors().len(), 2);
    let error = check(&key, Issued { chain, trust_anchors: vec![old] }, &template).unwrap_err();
    assert!(matches!(error, BundleError::Expired { .. }));
}

#[test]
fn a_self_signed_leaf_is_its_own_anchor() {
    let (key, template) = (key(KeyAlgorithm::Ed25519), template(&["web.example"]));
    let leaf = self_sign(&template, &key, validity(), &AuthorityInformation::default()).unwrap();
    let issued = Issued { chain: vec![leaf.clone()], trust_anchors: Vec::new() };
    let bundle = check(&key, issued, &template).unwrap();
    assert_eq!(bundle.intermediates(), []);
    assert_eq!(bundle.trust_anchors(), [leaf]);
}

#[test]
fn anchors_can_be_replaced_and_are_saved_apart_from_the_chain() {
    let bundle = bundle(KeyAlgorithm::EcdsaP256);
    let [old, new] = [
        bundle.trust_anchors()[0].clone(),
        root("CN=new", KeyAlgorithm::EcdsaP256).certificate().clone(),
    ];
    let bundle = bundle.with_trust_anchors(vec![old.clone(), new.clone(), old.clone()]);
    let saved = Bundle::from_state(&bundle.to_state()).unwrap();
    assert_eq!(saved.trust_anchors(), [old, new]);
    assert_eq!(saved.intermediates(), bundle.intermediates());
    let bundle = bundle.with_trust_anchors(Vec::new());
    assert_eq!(Bundle::from_state(&bundle.to_state()).unwrap().trust_anchors(), []);
}

#[test]
fn a_damaged_state_is_an_error() {
    let [state, other] = [(); 2].map(|()| bundle(KeyAlgorithm::EcdsaP256).to_state());
    let text = std::str::from_utf8(&state).unwrap();
    let certificates = text.find("-----BEGIN CERTIFICATE").unwrap();
    let foreign = [&other[..certificates], &state[certificates..]].concat();
    assert!(matches!(Bundle::from_state(&foreign), Err(BundleError::OtherKey)));
    assert!(matches!(Bundle::from_state(&state[..certificates]), Err(BundleError::NoLeaf)));
    assert!(matches!(Bundle::from_state(&state[certificates..]), Err(BundleError::Key(_))));
    assert!(matches!(
        Bundle::from_state(&state[..state.len() - 40]),
        Err(BundleError::Certificate(_))
    ));
    assert!(matches!(Bundle::from_state(b""), Err(BundleError::Key(KeyError::Missing))));
}

#[test]
fn debug_output_holds_no_key() {
    let text = format!("{:?}", bundle(KeyAlgorithm::EcdsaP256));
    assert!(text.contains("key: PrivateKey { algorithm: EcdsaP256, .. }"), "{text}");
}

proptest! {
    #[test]
    fn no_state_panics(at in 0..4000usize, byte: u8, cut in 0..4000usize) {
        static STATE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| bundle(KeyAlgorithm::EcdsaP256).to_state().to_vec());
        let mut state = STATE.clone();
        let at = at % state.len();
        state[at] = byte;
        let _ = Bundle::from_state(&state);
        state.truncate(cut);
        let _ = Bundle::from_state(&state);
    }
}

/// A CA, and what is asked of it.
struct Web {
    ca: CertificateAuthority,
    template: Template,
    key: Arc<PrivateKey>,
}

fn web() -> Web {
    Web {
        ca: root("CN=root", KeyAlgorithm::EcdsaP256),
        template: template(&["web.example"]),
        key: key(KeyAlgorithm::EcdsaP256),
    }
}

fn check(
    key: &Arc<PrivateKey>,
    issued: Issued,
    template: &Template,
) -> Result<Bundle, BundleError> {
    Bundle::new(Arc::clone(key), issued, template, LIFETIME, now())
}
