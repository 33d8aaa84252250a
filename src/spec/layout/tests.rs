//! Which names are taken, and what is in the files.

use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::x509::{
    AuthorityInformation, BasicConstraints, CertificateAuthority, DistinguishedName, GeneralName,
    Issued, KeyAlgorithm, KeyUsages, NameConstraints, Template, Validity, certificates_from_pem,
    self_sign,
};

fn name(text: &str) -> FileName {
    FileName::try_from(text).unwrap()
}

#[test]
fn plain_file_names_are_taken_as_they_are() {
    for good in ["tls.crt", "a b", ".hidden", "é", "a..b", &"x".repeat(255)] {
        assert_eq!(name(good).as_str(), good);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "..data",
        "..x",
        "/etc/passwd",
        "a/b",
        "a/",
        "a\0",
        "a\n",
        " a",
        "a ",
        "../x",
        &"x".repeat(256),
    ] {
        assert!(FileName::try_from(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn two_files_cannot_have_one_name() {
    let mut layout = FileLayout::default();
    layout.insert(name("tls.crt"), FileContent::CertificateChain).unwrap();
    layout.insert(name("ca.crt"), FileContent::TrustAnchors).unwrap();
    layout.insert(name("tls.crt"), FileContent::Leaf).unwrap_err();
    assert_eq!(layout.names().map(FileName::as_str).collect::<Vec<_>>(), ["tls.crt", "ca.crt"]);
}

#[test]
fn debug_output_has_no_secrets() {
    let mut layout = FileLayout::default();
    let password = Password::new("hunter2").unwrap();
    let content = FileContent::JksKeystore { alias: "a".into(), password };
    layout.insert(name("k.jks"), content).unwrap();
    let payload = Payload(vec![(name("tls.key"), Zeroizing::new(b"hunter2".to_vec()))]);
    let printed = format!("{layout:?} {payload:?}");
    assert!(printed.contains("k.jks") && printed.contains("tls.key"), "{printed}");
    let bytes = format!("{:?}", b"hunter2");
    assert!(!printed.contains("hunter2") && !printed.contains(&bytes), "{printed}");
}

proptest! {
    #[test]
    fn an_accepted_name_stays_inside_the_directory(
        any in any::<String>(),
        tricky in "[./a \\\\\u{0}-]{0,8}",
    ) {
        for text in [any, tricky] {
            if let Ok(name) = FileName::try_from(text.as_str()) {
                let path = Path::new(name.as_str());
                let parts: Vec<_> = path.components().collect();
                prop_assert_eq!(parts.len(), 1);
                prop_assert!(matches!(parts[0], Component::Normal(_)));
                let joined = Path::new("/v").join(path);
                prop_assert_eq!(joined.parent(), Some(Path::new("/v")));
            }
        }
    }
}

/// A leaf below an intermediate below a root.
fn bundle() -> Bundle {
    let root = ca("CN=root", None);
    let intermediate = ca("CN=intermediate", Some(&root));
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![GeneralName::dns("web.shop.svc").unwrap()],
        usages: KeyUsages::parse(["digital signature"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    };
    let leaf = sign(&intermediate, &template, &key);
    let issued = Issued {
        chain: [&[leaf], intermediate.intermediates()].concat(),
        trust_anchors: intermediate.trust_anchors().to_vec(),
    };
    Bundle::new(key, issued, &template, Duration::from_secs(24 * 3600), now()).unwrap()
}

fn ca(subject: &str, parent: Option<&CertificateAuthority>) -> CertificateAuthority {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = Template {
        subject: DistinguishedName::from_rfc4514(subject).unwrap(),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::parse(["cert sign"]).unwrap(),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    };
    let (certificate, anchors) = match parent {
        Some(parent) => (sign(parent, &template, &key), parent.trust_anchors().to_vec()),
        None => {
            let information = AuthorityInformation::default();
            (self_sign(&template, &key, validity(), &information).unwrap(), Vec::new())
        }
    };
    CertificateAuthority::new(vec![certificate], anchors, key).unwrap()
}

fn sign(ca: &CertificateAuthority, template: &Template, key: &PrivateKey) -> Certificate {
    let information = AuthorityInformation::default();
    ca.sign(template, key.public_key_info(), validity(), &information).unwrap()
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn validity() -> Validity {
    let hour = Duration::from_secs(3600);
    Validity { not_before: now() - hour, not_after: now() + 24 * hour }
}

fn render(bundle: &Bundle, content: FileContent) -> Zeroizing<Vec<u8>> {
    let mut layout = FileLayout::default();
    layout.insert(name("file"), content).unwrap();
    let Payload(mut files) = layout.render(bundle).unwrap();
    assert_eq!(files.len(), 1);
    let (name, bytes) = files.remove(0);
    assert_eq!(name.as_str(), "file");
    bytes
}

/// The subjects of the certificates in a PEM file, where the leaf's is empty.
fn subjects(pem: &[u8]) -> Vec<String> {
    certificates_from_pem(pem).unwrap().iter().map(Certificate::subject).collect()
}

#[test]
fn chain_files_hold_their_part_of_the_chain_in_order() {
    let bundle = bundle();
    for (content, expected) in [
        (FileContent::CertificateChain, &["", "CN=intermediate"][..]),
        (FileContent::Leaf, &[""]),
        (FileContent::Intermediates, &["CN=intermediate"]),
        (FileContent::TrustAnchors, &["CN=root"]),
        (FileContent::FullChain, &["", "CN=intermediate", "CN=root"]),
    ] {
        let shown = format!("{content:?}");
        assert_eq!(subjects(&render(&bundle, content)), expected, "{shown}");
    }
    let leaf = render(&bundle, FileContent::CertificateDer);
    assert_eq!(*leaf, bundle.leaf().der());
}

#[test]
fn a_full_chain_ends_in_its_own_root_whatever_else_is_trusted() {
    let bundle = bundle();
    let other = ca("CN=other", None).trust_anchors().to_vec();
    let anchors = [other, bundle.trust_anchors().to_vec()].concat();
    let bundle = bundle.with_trust_anchors(anchors);
    let full = render(&bundle, FileContent::FullChain);
    assert_eq!(subjects(&full), ["", "CN=intermediate", "CN=root"]);
    assert_eq!(subjects(&render(&bundle, FileContent::TrustAnchors)), ["CN=other", "CN=root"]);
    let nowhere = bundle.with_trust_anchors(Vec::new());
    assert_eq!(subjects(&render(&nowhere, FileContent::FullChain)), ["", "CN=intermediate"]);
    assert_eq!(*render(&nowhere, FileContent::TrustAnchors), b"");
}

#[test]
fn key_files_hold_the_bundles_key() {
    let bundle = bundle();
    let expected = bundle.key().public_key_info();
    for encoding in [KeyEncoding::Pkcs8, KeyEncoding::Sec1] {
        let pem = render(&bundle, FileContent::PrivateKey(encoding));
        assert_eq!(PrivateKey::from_pem(&pem).unwrap().public_key_info(), expected);
    }
    let der = render(&bundle, FileContent::PrivateKeyDer(KeyEncoding::Pkcs8));
    assert_eq!(PrivateKey::from_pkcs8_der(&der).unwrap().public_key_info(), expected);
    let password = Password::new("hunter2").unwrap();
    let encrypted = render(&bundle, FileContent::EncryptedPrivateKey(password));
    assert!(encrypted.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"));
}

#[test]
fn combined_files_are_one_after_the_other() {
    let bundle = bundle();
    let chain = render(&bundle, FileContent::CertificateChain);
    let key = render(&bundle, FileContent::PrivateKey(KeyEncoding::Pkcs8));
    assert!(chain.ends_with(b"\n") && key.ends_with(b"\n"));
    let key_first = render(&bundle, FileContent::KeyThenCertificateChain(KeyEncoding::Pkcs8));
    assert_eq!(*key_first, [&key[..], &chain[..]].concat());
    let chain_first = render(&bundle, FileContent::CertificateChainThenKey(KeyEncoding::Pkcs8));
    assert_eq!(*chain_first, [&chain[..], &key[..]].concat());
}

#[test]
fn keystores_are_written_with_their_password() {
    const DER_SEQUENCE: u8 = 0x30;
    const JKS_MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];
    let bundle = bundle();
    let password = || Password::new("changeit").unwrap();
    for profile in [Pkcs12Profile::LegacyDes, Pkcs12Profile::LegacyRc2, Pkcs12Profile::Modern2023] {
        let alias = "web".to_owned();
        let keystore = FileContent::Pkcs12Keystore { alias, password: password(), profile };
        let truststore = FileContent::Pkcs12Truststore { password: password(), profile };
        for content in [keystore, truststore] {
            let der = render(&bundle, content);
            assert_eq!(der[0], DER_SEQUENCE);
        }
    }
    let alias = "web".to_owned();
    let keystore = FileContent::JksKeystore { alias, password: password() };
    let truststore = FileContent::JksTruststore { password: password() };
    for content in [keystore, truststore] {
        assert!(render(&bundle, content).starts_with(&JKS_MAGIC));
    }
}

#[test]
fn passwords_fit_every_keystore() {
    for bad in ["", "a\0", "\u{1f511}"] {
        assert!(Password::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_key_that_cannot_be_written_so_names_the_file() {
    let mut layout = FileLayout::default();
    layout.insert(name("tls.key"), FileContent::PrivateKey(KeyEncoding::Pkcs1)).unwrap();
    let error = layout.render(&bundle()).unwrap_err();
    assert!(error.to_string().starts_with("tls.key: "), "{error}");
}
