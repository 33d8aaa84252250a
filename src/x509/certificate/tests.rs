use proptest::prelude::*;

use super::super::fixture::*;
use super::super::*;
use crate::clock::Timestamp;

#[test]
fn what_openssl_wrote_is_read() {
    let certificate = read(include_bytes!("../testdata/odd-names.pem"));
    assert_eq!(certificate.subject(), "CN=odd,O=Odd \\\"quoted\\\"\\, Inc,DC=example,DC=com");
    assert_eq!(certificate.issuer(), certificate.subject());
    assert_eq!(certificate.serial_number(), "00");
    assert_eq!(
        certificate.names(),
        [
            "dns:web.example",
            "ip:10.0.0.1",
            "email:Jane@Example.com",
            "uri:spiffe://a/b",
            "other:registered id 1.2.3.4",
            "other:1.3.6.1.4.1.311.20.2.3",
            "other:directory name CN=somebody",
        ]
    );
    assert_eq!(
        certificate.usages().to_string(),
        "digital signature,key agreement,decipher only,server auth,1.2.3.4.5"
    );
    assert_eq!(certificate.basic_constraints(), BasicConstraints::EndEntity);
    assert!(certificate.is_self_signed());
    assert_eq!(certificate.fingerprint().len(), 32);
}

#[test]
fn a_version_1_certificate_is_no_ca() {
    let certificate = read(include_bytes!("../testdata/v1.pem"));
    assert_eq!(certificate.serial_number(), "80");
    assert_eq!(certificate.serial_number_bytes(), [0, 0x80]);
    assert!(!certificate.is_ca() && certificate.is_self_signed());
    assert_eq!(certificate.subject_key_identifier(), None);
    assert_eq!(certificate.names(), [""; 0]);
}

#[test]
fn a_root_of_old_is_a_root_for_ever() {
    // Signed with SHA-1, and until the year 9999.
    let certificate = read(include_bytes!("../testdata/sha1-root.pem"));
    assert!(certificate.is_self_signed() && certificate.is_ca());
    assert_eq!(certificate.validity().not_after, Timestamp::MAX);
    assert_eq!(
        certificate.check_signed_by(&certificate),
        Err(SignatureError::UnsupportedAlgorithm)
    );
}

#[test]
fn a_signature_counts_with_name_and_key() {
    let parent = root("CN=root", KeyAlgorithm::EcdsaP521);
    let namesake = root("CN=root", KeyAlgorithm::EcdsaP521);
    let other_kind = root("CN=root", KeyAlgorithm::Ed25519);
    let stranger = root("CN=stranger", KeyAlgorithm::EcdsaP521);
    let leaf = sign(&parent, &template(&["web.example"]), &key(KeyAlgorithm::EcdsaP256));
    assert!(leaf.is_signed_by(parent.certificate()));
    for (ca, error) in [
        (namesake, SignatureError::Invalid),
        (other_kind, SignatureError::UnsupportedAlgorithm),
        (stranger, SignatureError::OtherIssuer),
    ] {
        assert_eq!(leaf.check_signed_by(ca.certificate()), Err(error));
    }
    assert!(!leaf.is_self_signed());
}

#[test]
fn a_changed_byte_breaks_the_signature() {
    for algorithm in ALGORITHMS {
        let parent = root("CN=root", algorithm);
        let leaf = sign(&parent, &template(&["web.example"]), &key(KeyAlgorithm::EcdsaP256));
        let mut der = leaf.der().to_vec();
        let at = der.windows(3).position(|bytes| bytes == b"web").unwrap();
        der[at] = b'W';
        let changed = Certificate::from_der(der).unwrap();
        assert_eq!(changed.check_signed_by(parent.certificate()), Err(SignatureError::Invalid));
    }
}

#[test]
fn too_much_or_too_little_is_no_certificate() {
    let der = read(include_bytes!("../testdata/odd-names.pem")).der().to_vec();
    for length in 0..der.len() {
        Certificate::from_der(der[..length].to_vec()).unwrap_err();
    }
    let error = Certificate::from_der([&der[..], &[0]].concat()).unwrap_err();
    assert_eq!(error.to_string(), "not a certificate: bytes follow it");
    let error = Certificate::from_der(vec![0; 64 * 1024 + 1]).unwrap_err();
    assert_eq!(error.to_string(), "a certificate of 65537 bytes; the most that is read is 65536");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Certificate::from_der(bytes);
    }

    #[test]
    fn no_damage_panics(at in 0..2000usize, byte: u8, which in 0..3usize) {
        let pem = [
            &include_bytes!("../testdata/odd-names.pem")[..],
            include_bytes!("../testdata/v1.pem"),
            include_bytes!("../testdata/sha1-root.pem"),
        ];
        let mut der = read(pem[which]).der().to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Ok(certificate) = Certificate::from_der(der) {
            let _ = format!("{certificate:?} {}", certificate.issuer());
            let _ = (certificate.is_self_signed(), certificate.fingerprint());
            let _ = (certificate.public_key_info(), certificate.authority_key_identifier());
            let _ = (certificate.subject_key_identifier(), certificate.serial_number_bytes());
        }
    }
}

fn read(pem: &[u8]) -> Certificate {
    let mut certificates = certificates_from_pem(pem).unwrap();
    assert_eq!(certificates.len(), 1);
    certificates.remove(0)
}
