use std::time::Duration;

use super::super::fixture::{self, *};
use super::*;
use crate::x509::{DistinguishedName, ExtendedKeyUsage, KeyAlgorithm, KeyUsages, NameSubtree};

#[test]
fn a_leaf_says_what_the_template_says() {
    let ca = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let mut template = template(&["web.example", "*.web.example"]);
    template.subject.push("CN", "web").unwrap();
    let leaf = sign(&ca, &template, &key);
    assert_eq!(leaf.subject(), "CN=web");
    assert_eq!(leaf.issuer(), "CN=root");
    assert_eq!(leaf.subject_alt_names(), template.subject_alt_names);
    assert_eq!(leaf.usages(), &template.usages);
    assert_eq!(leaf.validity(), validity());
    assert_eq!(leaf.public_key_info(), key.public_key_info());
    assert_eq!(leaf.basic_constraints(), BasicConstraints::EndEntity);
    assert_eq!(leaf.authority_key_identifier(), ca.certificate().subject_key_identifier());
    assert_eq!(
        leaf.subject_key_identifier(),
        Some(&key_identifier(key.public_key_info()).unwrap()[..])
    );
}

#[test]
fn names_are_critical_only_without_a_subject() {
    let ca = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let mut template = template(&["web.example"]);
    // subjectAltName, and TRUE after it.
    let critical = [0x55, 0x1d, 0x11, 1, 1, 0xff];
    let is_critical = |template: &Template| {
        sign(&ca, template, &key).der().windows(critical.len()).any(|bytes| bytes == critical)
    };
    assert!(is_critical(&template));
    template.subject.push("O", "org").unwrap();
    assert!(!is_critical(&template));
}

#[test]
fn the_name_of_a_ca_stays_as_it_is() {
    // What repeats attributes, has several in one RDN, or other string types than ours.
    for subject in [
        "CN=ca,DC=corp,DC=example,DC=com",
        "CN=a+OU=b,OU=c,OU=d",
        "CN=#1302 6361".replace(' ', "").as_str(),
    ] {
        let ca = root(subject, KeyAlgorithm::EcdsaP256);
        let leaf = sign(&ca, &template(&["web.example"]), &key(KeyAlgorithm::EcdsaP256));
        assert!(leaf.is_signed_by(ca.certificate()), "{subject}");
    }
}

#[test]
fn serial_numbers_are_long_positive_and_never_the_same() {
    let ca = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let [first, second] = [(); 2].map(|()| sign(&ca, &template(&["web.example"]), &key));
    assert_ne!(first.serial_number(), second.serial_number());
    for certificate in [first, second] {
        let bytes = certificate.serial_number_bytes();
        assert_eq!(bytes.len(), 20);
        assert!((0x40..0x80).contains(&bytes[0]));
    }
}

#[test]
fn cas_may_sign_certificates_and_revocation_lists() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP256);
    let ca = intermediate("CN=ca", &parent);
    for ca in [parent.certificate(), ca.certificate()] {
        assert_eq!(ca.usages().key, [KeyUsage::CertSign, KeyUsage::CrlSign]);
        assert_eq!(ca.basic_constraints(), BasicConstraints::Ca { path_len: None });
    }
}

#[test]
fn years_from_2050_on_are_told_apart_from_those_before() {
    let ca = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let at = |not_before: &str, not_after: &str| {
        let [not_before, not_after] = [not_before, not_after].map(|time| time.parse().unwrap());
        let validity = Validity { not_before, not_after };
        let information = AuthorityInformation::default();
        ca.sign(&template(&["web.example"]), key.public_key_info(), validity, &information)
            .map(|certificate| assert_eq!(certificate.validity(), validity))
    };
    at("1970-01-01T00:00:00Z", "2049-12-31T23:59:59Z").unwrap();
    at("2050-01-01T00:00:00Z", "9999-12-30T22:00:00Z").unwrap();
    at("1969-12-31T23:59:59Z", "2049-12-31T23:59:59Z").unwrap_err();
    at("2050-01-01T00:00:00Z", "2049-12-31T23:59:59Z").unwrap_err();
}

#[test]
fn a_ca_that_cannot_sign_is_refused() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP256);
    let ca_key = key(KeyAlgorithm::EcdsaP256);
    let signed = |template: &Template| sign(&parent, template, &ca_key);
    let good = signed(&ca_template("CN=ca"));
    let leaf = signed(&template(&["web.example"]));
    let nameless = signed(&ca_template(""));
    let anchors = parent.trust_anchors().to_vec();
    let stranger = root("CN=stranger", KeyAlgorithm::EcdsaP256).trust_anchors().to_vec();
    let refused = |chain: Vec<Certificate>, anchors: &[Certificate], key: &Arc<PrivateKey>| {
        CertificateAuthority::new(chain, anchors.to_vec(), Arc::clone(key)).unwrap_err()
    };
    assert!(matches!(refused(vec![], &anchors, &ca_key), SignError::NoCertificate));
    let other = key(KeyAlgorithm::EcdsaP256);
    let error = refused(vec![good.clone()], &anchors, &other);
    assert!(matches!(error, SignError::KeyMismatch { subject } if subject == "CN=ca"));
    // The chain the wrong way round.
    let error = refused(vec![anchors[0].clone(), good.clone()], &anchors, &ca_key);
    assert!(matches!(error, SignError::KeyMismatch { subject } if subject == "CN=root"));
    assert!(matches!(refused(vec![leaf], &anchors, &ca_key), SignError::NotACa { .. }));
    assert!(matches!(refused(vec![nameless], &anchors, &ca_key), SignError::NoSubject));
    let error = refused(vec![good], &stranger, &ca_key);
    assert!(matches!(error, SignError::UnknownRoot { .. }));
    let only_crl = with_extensions(&ca_key, |extensions| {
        // cRLSign alone.
        extensions[0].extn_value = der::asn1::OctetString::new([3, 2, 1, 2]).unwrap();
    });
    assert!(matches!(refused(vec![only_crl], &[], &ca_key), SignError::MayNotSign { .. }));
}

#[test]
fn a_ca_without_key_identifier_gives_one_to_what_it_signs() {
    let ca_key = key(KeyAlgorithm::EcdsaP256);
    let bare = with_extensions(&ca_key, |extensions| {
        extensions.retain(|extension| extension.critical);
    });
    assert_eq!(bare.subject_key_identifier(), None);
    let identifier = key_identifier(ca_key.public_key_info()).unwrap();
    let ca = CertificateAuthority::new(vec![bare], Vec::new(), ca_key).unwrap();
    let leaf = sign(&ca, &template(&["web.example"]), &key(KeyAlgorithm::EcdsaP256));
    assert_eq!(leaf.authority_key_identifier(), Some(&identifier[..]));
}

#[test]
fn an_extension_that_comes_twice_is_not_read_back() {
    let key = key(KeyAlgorithm::EcdsaP256);
    let error = try_with_extensions(&key, |extensions| extensions.push(extensions[0].clone()));
    let Err(SignError::Certificate(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), "not a certificate: it holds an extension twice");
}

/// A self-signed CA with changed extensions, of which the first is the key usage.
fn with_extensions(key: &PrivateKey, change: impl FnOnce(&mut Extensions)) -> Certificate {
    try_with_extensions(key, change).unwrap()
}

fn try_with_extensions(
    key: &PrivateKey,
    change: impl FnOnce(&mut Extensions),
) -> Result<Certificate, SignError> {
    let (template, information) = (ca_template("CN=odd"), AuthorityInformation::default());
    let subject = template.subject.to_der();
    let info = key.public_key_info();
    let mut extensions = certificate_extensions(&template, info, None, &information)?;
    change(&mut extensions);
    sign_certificate(&subject, &subject, info, validity(), extensions, key)
}

#[test]
fn a_ca_knows_what_goes_between_leaf_and_anchor() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP256);
    let first = intermediate("CN=1", &parent);
    let second_key = key(KeyAlgorithm::EcdsaP256);
    let second = sign(&first, &ca_template("CN=2"), &second_key);
    let [top, first] = [parent.certificate(), first.certificate()].map(Clone::clone);
    let built = |chain: &[&Certificate], anchors: &[&Certificate]| {
        let [chain, anchors] = [chain, anchors].map(|some| some.iter().copied().cloned().collect());
        let ca = CertificateAuthority::new(chain, anchors, Arc::clone(&second_key)).unwrap();
        (ca.intermediates().to_vec(), ca.trust_anchors().to_vec())
    };
    let whole = (vec![second.clone(), first.clone()], vec![top.clone()]);
    assert_eq!(built(&[&second, &top, &first], &[]), whole);
    assert_eq!(built(&[&second], &[&top, &first, &top]), whole);
    assert_eq!(built(&[&second, &first], &[]), (whole.0, vec![first.clone()]));
    assert_eq!(built(&[&second], &[]), (vec![second.clone()], vec![second.clone()]));
    assert_eq!(parent.intermediates(), []);
    assert_eq!(parent.trust_anchors(), vec![top.clone()]);
    // Old and new root side by side, while one takes over from the other.
    let old = root("CN=old", KeyAlgorithm::EcdsaP256).certificate().clone();
    assert_eq!(built(&[&second, &first], &[&old, &top]).1, [old, top]);
}

#[test]
fn path_length_constraints_are_kept() {
    let ca_key = key(KeyAlgorithm::EcdsaP256);
    let limited = |path_len| {
        let constraints = BasicConstraints::Ca { path_len };
        let template = Template { basic_constraints: constraints, ..ca_template("CN=ca") };
        let information = AuthorityInformation::default();
        let ca = self_sign(&template, &ca_key, validity(), &information).unwrap();
        CertificateAuthority::new(vec![ca], Vec::new(), Arc::clone(&ca_key)).unwrap()
    };
    let sign_ca = |ca: &CertificateAuthority, path_len| {
        let constraints = BasicConstraints::Ca { path_len };
        let template = Template { basic_constraints: constraints, ..ca_template("CN=below") };
        let information = AuthorityInformation::default();
        ca.sign(&template, ca_key.public_key_info(), validity(), &information).is_ok()
    };
    for (limit, below, allowed) in [
        (None, None, true),
        (None, Some(3), true),
        (Some(1), Some(0), true),
        (Some(1), Some(1), false),
        (Some(1), None, false),
        (Some(0), Some(0), false),
    ] {
        assert_eq!(sign_ca(&limited(limit), below), allowed, "{limit:?} {below:?}");
    }
    sign(&limited(Some(0)), &template(&["web.example"]), &ca_key);
}

#[test]
fn a_self_signed_certificate_always_has_a_subject() {
    let key = key(KeyAlgorithm::EcdsaP256);
    let subject = |template: &Template| {
        let information = AuthorityInformation::default();
        self_sign(template, &key, validity(), &information).unwrap().subject()
    };
    assert_eq!(subject(&template(&["web.example", "b.example"])), "CN=web.example");
    assert_eq!(subject(&template(&[])), "CN=certmount");
    let long = ["a".repeat(60).as_str(); 2].join(".");
    assert_eq!(subject(&template(&[&long])), "CN=certmount");
    let mut named = template(&["web.example"]);
    named.subject = DistinguishedName::from_rfc4514("O=org").unwrap();
    assert_eq!(subject(&named), "O=org");
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let ca = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let usages = KeyUsages { extended: vec![ExtendedKeyUsage::ServerAuth], ..Default::default() };
    let template = Template { usages, ..template(&["web.example"]) };
    let information = AuthorityInformation {
        ocsp_servers: vec!["http://ü".to_owned()],
        ..AuthorityInformation::default()
    };
    let error = ca.sign(&template, key.public_key_info(), validity(), &information).unwrap_err();
    assert_eq!(error.to_string(), "a URL that is not ASCII cannot be put into a certificate");
    let none = AuthorityInformation::default();
    let error = ca.sign(&template, b"no key", validity(), &none).unwrap_err();
    assert_eq!(error.to_string(), "a malformed public key cannot be put into a certificate");
    let day = Duration::from_secs(86_400);
    let backwards = Validity { not_before: now(), not_after: now() - day };
    ca.sign(&template, key.public_key_info(), backwards, &none).unwrap_err();
}

#[test]
fn name_constraints_are_in_the_ca_and_bind_all_that_is_signed_below() {
    let names = NameConstraints {
        permitted: vec![NameSubtree::dns("svc.example").unwrap()],
        excluded: vec![
            NameSubtree::ip("0.0.0.0/0").unwrap(),
            NameSubtree::ip("2001:db8::/32").unwrap(),
            NameSubtree::email(".example").unwrap(),
            NameSubtree::uri("example").unwrap(),
        ],
    };
    let top = root("CN=root", KeyAlgorithm::EcdsaP256);
    let key = key(KeyAlgorithm::EcdsaP256);
    let constrained = Template { name_constraints: names.clone(), ..ca_template("CN=constrained") };
    let certificate = sign(&top, &constrained, &key);
    assert_eq!(certificate.name_constraints(), Some(&names));
    let anchors = top.trust_anchors().to_vec();
    let ca = CertificateAuthority::new(vec![certificate], anchors, key).unwrap();
    // Not its own constraints only, but those of each CA above.
    let below = intermediate("CN=below", &ca);
    assert_eq!(below.certificate().name_constraints(), None);
    for ca in [&ca, &below] {
        let leaf_key = fixture::key(KeyAlgorithm::EcdsaP256);
        let information = AuthorityInformation::default();
        let signed = |template: &Template| {
            ca.sign(template, leaf_key.public_key_info(), validity(), &information)
        };
        signed(&template(&["web.svc.example"])).unwrap();
        let error = signed(&template(&["web.svc.example", "web.example"])).unwrap_err();
        let SignError::NameNotAllowed { refused, .. } = &error else { panic!("{error}") };
        assert_eq!(refused.name, "dns:web.example");
        let mut addressed = template(&["web.svc.example"]);
        addressed.subject_alt_names.push(GeneralName::ip("10.0.0.1").unwrap());
        signed(&addressed).unwrap_err();
    }
}

#[test]
fn a_request_for_a_ca_says_so_and_which_names_it_may_sign() {
    let key = key(KeyAlgorithm::EcdsaP256);
    let holds = |template: &Template, oid: &[u8]| {
        let request = CertificationRequest::new(template, &key).unwrap();
        request.der().windows(oid.len()).any(|window| window == oid)
    };
    // 2.5.29.19 and 2.5.29.30 in DER.
    let (basic, names) = ([6, 3, 0x55, 0x1d, 19], [6, 3, 0x55, 0x1d, 30]);
    let mut ca = ca_template("CN=ca");
    assert!(holds(&ca, &basic) && !holds(&ca, &names));
    ca.name_constraints.permitted.push(NameSubtree::dns("svc.example").unwrap());
    assert!(holds(&ca, &basic) && holds(&ca, &names));
    ca.basic_constraints = BasicConstraints::EndEntity;
    assert!(!holds(&ca, &basic) && !holds(&ca, &names));
}
