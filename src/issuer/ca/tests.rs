use std::collections::BTreeMap;

use super::*;
use crate::error::with_causes;
use crate::issuer::fixture::Asking;
use crate::issuer::{BuildError, Materials, SelfSigned, Surroundings, build};
use crate::spec::fixture::spec;
use crate::spec::object::{self, IssuerObject, Object};
use crate::spec::request::CertificateSpec;
use crate::x509::fixture::ca_template;
use crate::x509::{
    BasicConstraints, Bundle, ExtendedKeyUsage, GeneralName, KeyAlgorithm, KeyUsage, KeyUsages,
    chain_to_pem, self_sign,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn clock() -> Clock {
    Clock::from_fn(now)
}

/// From the day before until `left` from now.
fn lasting(left: Duration) -> Validity {
    Validity { not_before: now() - DAY, not_after: now() + left }
}

fn root(validity: Validity) -> (Certificate, Arc<PrivateKey>) {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = ca_template("CN=root");
    let certificate = self_sign(&template, &key, validity, &AuthorityInformation::default());
    (certificate.unwrap(), key)
}

fn root_authority(validity: Validity) -> CertificateAuthority {
    let (certificate, key) = root(validity);
    CertificateAuthority::new(vec![certificate], Vec::new(), key).unwrap()
}

fn intermediate_authority(above: Validity, own: Validity) -> CertificateAuthority {
    let parent = root_authority(above);
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let certificate = parent
        .sign(
            &ca_template("CN=intermediate"),
            key.public_key_info(),
            own,
            &AuthorityInformation::default(),
        )
        .unwrap();
    CertificateAuthority::new(vec![certificate], vec![parent.certificate().clone()], key).unwrap()
}

fn ca(authority: CertificateAuthority) -> Ca {
    let limits = CaLimits { max_duration: None, backdate: 5 * MINUTE, path_len: None };
    Ca::new(authority, AuthorityInformation::default(), limits, clock())
}

fn asking_for(duration: Duration) -> CertificateSpec {
    let mut spec = spec(duration.as_secs());
    spec.template.subject_alt_names = vec![GeneralName::dns("web.web.svc").unwrap()];
    spec
}

/// Orders `spec` and checks the answer as a volume does.
async fn order(issuer: &dyn Issuer, spec: &CertificateSpec) -> Result<Bundle, IssueError> {
    let asking = Asking::for_new_key(spec);
    let issued = issuer.issue(asking.order()).await?;
    Ok(Bundle::new(asking.key, issued, &spec.template, spec.duration, now()).unwrap())
}

#[tokio::test]
async fn a_leaf_lives_as_long_as_asked_for_and_begins_before_now() {
    let bundle = order(&ca(root_authority(lasting(365 * DAY))), &asking_for(DAY)).await.unwrap();
    let Validity { not_before, not_after } = bundle.validity();
    assert_eq!((not_before, not_after), (now() - 5 * MINUTE, now() + DAY));
    assert_eq!(bundle.intermediates(), []);
    assert_eq!(bundle.trust_anchors()[0].subject(), "CN=root");
}

#[tokio::test]
async fn usages_are_cert_managers_where_none_are_asked_for() {
    let ca = ca(root_authority(lasting(365 * DAY)));
    let mut spec = asking_for(DAY);
    let bundle = order(&ca, &spec).await.unwrap();
    let usages = bundle.leaf().usages();
    assert_eq!(usages.key, [KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment]);
    assert_eq!(usages.extended, []);

    spec.template.usages = KeyUsages::parse(["client auth"]).unwrap();
    let bundle = order(&ca, &spec).await.unwrap();
    assert_eq!(bundle.leaf().usages().key, []);
    assert_eq!(bundle.leaf().usages().extended, [ExtendedKeyUsage::ClientAuth]);
}

#[tokio::test]
async fn no_leaf_outlives_any_part_of_the_chain() {
    for (authority, end) in [
        (root_authority(lasting(10 * DAY)), now() + 10 * DAY),
        (intermediate_authority(lasting(90 * DAY), lasting(10 * DAY)), now() + 10 * DAY),
        (intermediate_authority(lasting(5 * DAY), lasting(10 * DAY)), now() + 5 * DAY),
    ] {
        let bundle = order(&ca(authority), &asking_for(90 * DAY)).await.unwrap();
        assert_eq!(bundle.validity().not_after, end - Duration::from_secs(1));
    }
}

#[tokio::test]
async fn no_leaf_begins_before_any_part_of_the_chain() {
    let young = Validity { not_before: now() - MINUTE, not_after: now() + DAY };
    for authority in [
        root_authority(young),
        intermediate_authority(young, lasting(DAY)),
        intermediate_authority(lasting(DAY), young),
    ] {
        let bundle = order(&ca(authority), &asking_for(HOUR)).await.unwrap();
        assert_eq!(bundle.validity().not_before, now() - MINUTE);
    }
}

#[tokio::test]
async fn the_longest_life_is_the_issuers() {
    let limits = CaLimits { max_duration: Some(HOUR), backdate: Duration::ZERO, path_len: None };
    let authority = root_authority(lasting(10 * DAY));
    let ca = Ca::new(authority, AuthorityInformation::default(), limits, clock());
    let bundle = order(&ca, &asking_for(90 * DAY)).await.unwrap();
    assert_eq!(bundle.validity(), Validity { not_before: now(), not_after: now() + HOUR });
}

#[tokio::test]
async fn a_ca_out_of_its_time_signs_nothing_and_says_so() {
    let future = Validity { not_before: now() + HOUR, not_after: now() + DAY };
    for (authority, said) in [
        (root_authority(Validity { not_after: now(), ..lasting(DAY) }), "expired at 2026-03-01"),
        (root_authority(future), "set the clock"),
        (intermediate_authority(lasting(DAY), future), "CN=intermediate"),
        (root_authority(lasting(5 * MINUTE)), "too soon"),
    ] {
        let error = order(&ca(authority), &asking_for(90 * DAY)).await.unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::Config);
        assert!(error.message.contains(said), "{error}");
    }
    // What is short because it was asked to be short is signed.
    order(&ca(root_authority(lasting(5 * MINUTE))), &asking_for(MINUTE)).await.unwrap();
    order(&ca(root_authority(lasting(2 * HOUR))), &asking_for(90 * DAY)).await.unwrap();
}

#[test]
fn a_ca_warns_before_its_end() {
    let warning = |authority| ca(authority).warning(now());
    assert_eq!(warning(root_authority(lasting(365 * DAY))), None);
    let old = Validity { not_before: now() - 365 * DAY, ..lasting(29 * DAY) };
    assert!(warning(root_authority(old)).is_some_and(|w| w.contains("expires at")));
    assert!(
        warning(root_authority(lasting(Duration::ZERO))).is_some_and(|w| w.contains("expired"))
    );
    // A young CA of a short life is not about to end.
    assert_eq!(warning(root_authority(lasting(2 * DAY))), None);
}

#[tokio::test]
async fn intermediates_and_anchors_come_with_the_leaf() {
    let ca = ca(intermediate_authority(lasting(90 * DAY), lasting(30 * DAY)));
    let bundle = order(&ca, &asking_for(DAY)).await.unwrap();
    let subjects = |certificates: &[Certificate]| -> Vec<String> {
        certificates.iter().map(Certificate::subject).collect()
    };
    assert_eq!(subjects(bundle.intermediates()), ["CN=intermediate"]);
    assert_eq!(subjects(bundle.trust_anchors()), ["CN=root"]);
    assert_eq!(ca.trust_anchors(), Some(bundle.trust_anchors()));
}

#[tokio::test]
async fn a_self_signed_leaf_is_its_own_anchor() {
    let issuer = SelfSigned::new(AuthorityInformation::default(), clock());
    let bundle = order(&issuer, &asking_for(DAY)).await.unwrap();
    assert_eq!(bundle.trust_anchors(), [bundle.leaf().clone()]);
    assert_eq!(bundle.leaf().subject(), "CN=web.web.svc");
    assert_eq!(bundle.validity().not_after, now() + DAY);
    assert!(issuer.trust_anchors().is_none());
}

fn issuer(spec: &str) -> IssuerObject {
    let text = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: ca}}, spec: {spec}}}"
    );
    match object::parse(&text).remove(0).unwrap().object {
        Object::Issuer(issuer) => *issuer,
        other => panic!("{other:?}"),
    }
}

fn secret(values: &BTreeMap<&str, String>) -> SecretObject {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "root"}, "stringData": values,
    });
    match object::parse(&object.to_string()).remove(0).unwrap().object {
        Object::Secret(secret) => secret,
        other => panic!("{other:?}"),
    }
}

fn pem(certificate: &Certificate) -> String {
    chain_to_pem([certificate])
}

fn key_pem(key: &PrivateKey) -> String {
    key.to_pem(crate::x509::KeyEncoding::Pkcs8).unwrap().to_string()
}

fn surroundings() -> Surroundings {
    Surroundings::new(clock(), "node-1")
}

fn build_with(spec: &str, values: &BTreeMap<&str, String>) -> Result<Arc<dyn Issuer>, BuildError> {
    let materials = Materials::default().with_secret("root", Ok(secret(values)));
    build(&issuer(spec), &materials, &surroundings())
}

fn build_from(values: &BTreeMap<&str, String>) -> Result<Arc<dyn Issuer>, BuildError> {
    build_with("{ca: {secretName: root}}", values)
}

#[tokio::test]
async fn an_issuer_is_built_from_its_object_and_secret() {
    let (certificate, key) = root(lasting(365 * DAY));
    let values = BTreeMap::from([("tls.crt", pem(&certificate)), ("tls.key", key_pem(&key))]);
    let issuer = build_from(&values).unwrap();
    let bundle = order(&*issuer, &asking_for(DAY)).await.unwrap();
    assert_eq!(bundle.trust_anchors(), [certificate]);
}

#[test]
fn a_secret_that_makes_no_ca_says_why() {
    let (certificate, key) = root(lasting(365 * DAY));
    let (other, other_key) = root(lasting(365 * DAY));
    let good = BTreeMap::from([("tls.crt", pem(&certificate)), ("tls.key", key_pem(&key))]);
    let leaf = {
        let authority = CertificateAuthority::new(vec![other], Vec::new(), other_key.clone());
        let spec = asking_for(DAY);
        let information = AuthorityInformation::default();
        authority
            .unwrap()
            .sign(&spec.template, key.public_key_info(), lasting(DAY), &information)
            .unwrap()
    };
    for (name, value, said) in [
        ("tls.crt", String::new(), "Secret root has no tls.crt"),
        ("tls.key", String::new(), "Secret root has no tls.key"),
        ("tls.crt", "nonsense".to_owned(), "certificate"),
        ("tls.key", "nonsense".to_owned(), "private key cannot be read"),
        (
            "ca.crt",
            "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----".to_owned(),
            "trust anchors cannot be read",
        ),
        ("tls.key", key_pem(&other_key), "does not belong to its certificate"),
        ("tls.crt", pem(&leaf), "is not a CA"),
    ] {
        let mut values = good.clone();
        values.insert(name, value);
        let reason = with_causes(&build_from(&values).unwrap_err());
        assert!(reason.contains(said), "{name}: {reason}");
    }
}

#[test]
fn what_cannot_be_built_says_why() {
    for (spec, said) in [
        (
            "{certManager: {issuerRef: x}}",
            "certManager is not supported by this build: use one of the others",
        ),
        ("{ca: {secretName: x}}", "there is no Secret x: add it"),
    ] {
        let error = build_with(spec, &BTreeMap::new()).unwrap_err();
        assert_eq!(with_causes(&error), said);
    }
}

#[tokio::test]
async fn what_verifiers_look_for_is_in_the_leaf() {
    let (certificate, key) = root(lasting(365 * DAY));
    let values = BTreeMap::from([("tls.crt", pem(&certificate)), ("tls.key", key_pem(&key))]);
    let spec = "{ca: {secretName: root, crlDistributionPoints: [http://crl.example], \
          ocspServers: [http://ocsp.example], issuingCertificateURLs: [http://aia.example]}}";
    let issuer = build_with(spec, &values).unwrap();
    let bundle = order(&*issuer, &asking_for(DAY)).await.unwrap();
    for uri in ["http://crl.example", "http://ocsp.example", "http://aia.example"] {
        let der = bundle.leaf().der();
        assert!(der.windows(uri.len()).any(|window| window == uri.as_bytes()), "{uri}");
    }
}

#[tokio::test]
async fn the_spec_limits_how_many_cas_may_follow() {
    let (certificate, key) = root(lasting(365 * DAY));
    let values = BTreeMap::from([("tls.crt", pem(&certificate)), ("tls.key", key_pem(&key))]);
    let limited = build_with("{ca: {secretName: root, pathLen: 1}}", &values).unwrap();
    let free = build_with("{ca: {secretName: root}}", &values).unwrap();
    for (asked, of_limited) in [(None, Some(1)), (Some(5), Some(1)), (Some(0), Some(0))] {
        let mut spec = asking_for(DAY);
        spec.template.subject.push("CN", "below").unwrap();
        spec.template.basic_constraints = BasicConstraints::Ca { path_len: asked };
        for (issuer, path_len) in [(&limited, of_limited), (&free, asked)] {
            let bundle = order(&**issuer, &spec).await.unwrap();
            assert_eq!(bundle.leaf().basic_constraints(), BasicConstraints::Ca { path_len });
        }
    }
}
