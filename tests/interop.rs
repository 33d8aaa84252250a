//! What other implementations make of our keys, requests, certificates and keystores, and we of
//! theirs.
//!
//! rustls is always there. The others are programs that a machine may lack: those tests are ignored,
//! and `cargo test --test interop -- --include-ignored` runs them.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    reason = "files for other programs, in a directory of our own"
)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use certmount::clock::{Clock, Timestamp};
use certmount::x509::*;
use common::ca_template;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tempfile::TempDir;

const ALGORITHMS: [KeyAlgorithm; 7] = [
    KeyAlgorithm::EcdsaP256,
    KeyAlgorithm::EcdsaP384,
    KeyAlgorithm::EcdsaP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa2048,
    KeyAlgorithm::Rsa3072,
    KeyAlgorithm::Rsa4096,
];

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A CA's subject that is hard on those who take names apart: repeated and multi-valued attributes.
const HARD_SUBJECT: &str = "CN=Grüße\\, CA,OU=b+OU=a,OU=c,DC=corp,DC=example,DC=com";

#[test]
fn rustls_speaks_tls_with_every_algorithm() {
    // Larger RSA keys are slow to make and no different to speak with.
    let slow = [KeyAlgorithm::Rsa3072, KeyAlgorithm::Rsa4096];
    for algorithm in ALGORITHMS.into_iter().filter(|algorithm| !slow.contains(algorithm)) {
        let files = Files::new(algorithm, algorithm);
        let chain = CertificateDer::pem_file_iter(files.path("tls.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(files.path("tls.key")).unwrap();
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        for anchor in CertificateDer::pem_file_iter(files.path("ca.crt")).unwrap() {
            roots.add(anchor.unwrap()).unwrap();
        }
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("web.example").unwrap();
        shake_hands(
            ClientConnection::new(Arc::new(client), name).unwrap(),
            ServerConnection::new(Arc::new(server)).unwrap(),
        );
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_verifies_strictly() {
    for ca_algorithm in ALGORITHMS {
        for algorithm in [ca_algorithm, KeyAlgorithm::EcdsaP256] {
            Files::new(ca_algorithm, algorithm).openssl_verify("web.example");
        }
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_verifies_what_certificates_can_hold() {
    let key = key(KeyAlgorithm::EcdsaP256);
    let ca = authority(KeyAlgorithm::EcdsaP256);
    let mut full = template(&["web.example", "*.web.example"]);
    full.subject = DistinguishedName::from_rfc4514("CN=web,O=a+O=b,C=DE,serialNumber=1").unwrap();
    full.subject_alt_names.extend([
        GeneralName::ip("2001:db8::1").unwrap(),
        GeneralName::email("jane@example.com").unwrap(),
        GeneralName::uri("spiffe://example.com/ns/a/sa/b").unwrap(),
    ]);
    full.usages =
        KeyUsages::parse(["signing", "key agreement", "server auth", "1.3.6.1.5.2.3.5"]).unwrap();
    let information = AuthorityInformation {
        crl_distribution_points: vec!["http://example.com/a.crl".into(), "http://b/".into()],
        ocsp_servers: vec!["http://ocsp.example.com".into()],
        issuing_certificate_urls: vec!["http://example.com/ca.crt".into()],
    };
    let leaf = ca.sign(&full, key.public_key_info(), validity(), &information).unwrap();
    let issued = Issued {
        chain: [&[leaf], ca.intermediates()].concat(),
        trust_anchors: ca.trust_anchors().to_vec(),
    };
    let files = Files::of(Bundle::new(key, issued, &full, DAY, now()).unwrap());
    files.openssl_verify("a.web.example");
    let text = files.openssl(&["x509", "-noout", "-text", "-in", "tls.crt"]);
    for part in [
        "DNS:web.example, DNS:*.web.example, IP Address:2001:DB8:0:0:0:0:0:1",
        "email:jane@example.com, URI:spiffe://example.com/ns/a/sa/b",
        "CA:FALSE",
        "Digital Signature, Key Agreement",
        "TLS Web Server Authentication, Signing KDC Response",
        "URI:http://example.com/a.crl",
        "OCSP - URI:http://ocsp.example.com",
        "CA Issuers - URI:http://example.com/ca.crt",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let subject =
        files.openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", "tls.crt"]);
    assert_eq!(subject.trim(), "subject=CN=web,O=b+O=a,C=DE,serialNumber=1");
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_verifies_self_signed_leaves() {
    for algorithm in ALGORITHMS {
        let (key, template) = (key(algorithm), template(&["web.example"]));
        let leaf = self_sign(&template, &key, validity(), &AuthorityInformation::default());
        let issued = Issued { chain: vec![leaf.unwrap()], trust_anchors: Vec::new() };
        let files = Files::of(Bundle::new(key, issued, &template, DAY, now()).unwrap());
        files.openssl_verify("web.example");
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_verifies_requests() {
    for algorithm in ALGORITHMS {
        let mut template = template(&["web.example"]);
        template.subject.push("CN", "web.example").unwrap();
        let request = CertificationRequest::new(&template, &key(algorithm)).unwrap();
        let files = Files::empty();
        files.write("request.pem", request.to_pem());
        let text = files.openssl(&["req", "-verify", "-noout", "-text", "-in", "request.pem"]);
        assert!(text.contains("DNS:web.example"), "{text}");
        template.subject_alt_names.clear();
        let request = CertificationRequest::new(&template, &key(algorithm)).unwrap();
        files.write("request.pem", request.to_pem());
        files.openssl(&["req", "-verify", "-noout", "-in", "request.pem"]);
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_reads_our_keys_in_every_encoding() {
    let files = Files::empty();
    for algorithm in ALGORITHMS {
        let key = key(algorithm);
        let mut read = 0;
        for encoding in [KeyEncoding::Pkcs1, KeyEncoding::Pkcs8, KeyEncoding::Sec1] {
            let Ok(pem) = key.to_pem(encoding) else { continue };
            files.write("key.pem", pem.as_bytes());
            files.openssl(&["pkey", "-check", "-noout", "-in", "key.pem"]);
            files.openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "pub"]);
            assert_eq!(files.read("pub"), key.public_key_info(), "{algorithm} {encoding}");
            read += 1;
        }
        assert_eq!(read, if algorithm == KeyAlgorithm::Ed25519 { 1 } else { 2 });
        files.write("key.pem", key.to_encrypted_pem("pässword").unwrap().as_bytes());
        let from = ["pkey", "-in", "key.pem", "-passin", "pass:pässword"];
        files.openssl(&[&from[..], &["-pubout", "-outform", "DER", "-out", "pub"]].concat());
        assert_eq!(files.read("pub"), key.public_key_info(), "{algorithm} encrypted");
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn we_read_openssl_keys() {
    let files = Files::empty();
    let ec = |curve| ["genpkey", "-algorithm", "EC", "-pkeyopt", curve];
    let generators: [(KeyAlgorithm, &[&str]); 7] = [
        (KeyAlgorithm::EcdsaP256, &ec("ec_paramgen_curve:P-256")),
        (KeyAlgorithm::EcdsaP384, &ec("ec_paramgen_curve:P-384")),
        (KeyAlgorithm::EcdsaP521, &ec("ec_paramgen_curve:P-521")),
        (KeyAlgorithm::EcdsaP256, &["ecparam", "-name", "prime256v1", "-genkey"]),
        (KeyAlgorithm::Ed25519, &["genpkey", "-algorithm", "ED25519"]),
        (KeyAlgorithm::Rsa2048, &["genpkey", "-algorithm", "RSA"]),
        (KeyAlgorithm::Rsa2048, &["genrsa", "-traditional"]),
    ];
    for (algorithm, generator) in generators {
        files.openssl(&[generator, &["-out", "key.pem"]].concat());
        files.openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "pub"]);
        let key = PrivateKey::from_pem(&files.read("key.pem")).unwrap();
        assert_eq!(key.algorithm(), algorithm, "{generator:?}");
        assert_eq!(key.public_key_info(), files.read("pub"), "{generator:?}");
    }
    for refused in [
        &["genrsa", "-out", "key.pem", "1024"][..],
        &["ecparam", "-name", "secp256k1", "-genkey", "-out", "key.pem"],
        &["genpkey", "-algorithm", "ED448", "-out", "key.pem"],
    ] {
        files.openssl(refused);
        let error = PrivateKey::from_pem(&files.read("key.pem")).unwrap_err();
        assert!(matches!(error, KeyError::Unsupported(_)), "{refused:?}: {error}");
    }
    for encrypted in [
        &["genrsa", "-aes256", "-passout", "pass:secret", "-out", "key.pem"][..],
        &["genrsa", "-traditional", "-aes256", "-passout", "pass:secret", "-out", "key.pem"],
    ] {
        files.openssl(encrypted);
        let error = PrivateKey::from_pem(&files.read("key.pem")).unwrap_err();
        assert!(matches!(error, KeyError::Encrypted), "{encrypted:?}: {error}");
    }
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_opens_pkcs12_keystores() {
    for algorithm in ALGORITHMS {
        let files = Files::new(KeyAlgorithm::EcdsaP256, algorithm);
        for (profile, legacy) in [
            (Pkcs12Profile::Modern2023, &[][..]),
            (Pkcs12Profile::LegacyDes, &[]),
            (Pkcs12Profile::LegacyRc2, &["-legacy"]),
        ] {
            let store = pkcs12_keystore(&files.bundle(), "web", "pässword", profile).unwrap();
            files.write("store.p12", &*store);
            let open = ["pkcs12", "-in", "store.p12", "-passin", "pass:pässword", "-nodes"];
            let pem = files.openssl(&[&open[..], legacy].concat());
            let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(
                key.pkcs8_der(),
                files.bundle().key().pkcs8_der(),
                "{algorithm} {profile:?}"
            );
            assert_eq!(certificates_from_pem(pem.as_bytes()).unwrap().len(), 3);
        }
    }
}

#[test]
#[ignore = "needs java; .ci/run runs it"]
fn java_opens_keystores_and_truststores() {
    let files = Files::new(KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP256);
    files.write("Check.java", JAVA_CHECK);
    run(Command::new("javac").arg("Check.java").current_dir(files.directory.path()));
    let mut arguments = Vec::new();
    for algorithm in ALGORITHMS {
        let bundle = Files::new(KeyAlgorithm::EcdsaP256, algorithm).bundle();
        let anchors = bundle.trust_anchors();
        for profile in
            [Pkcs12Profile::Modern2023, Pkcs12Profile::LegacyDes, Pkcs12Profile::LegacyRc2]
        {
            let name = format!("{algorithm:?}-{profile:?}");
            let store = pkcs12_keystore(&bundle, "Web", "changeit", profile).unwrap();
            files.write(&format!("{name}.p12"), &*store);
            let trust = pkcs12_truststore(anchors, "changeit", profile).unwrap();
            files.write(&format!("{name}-trust.p12"), trust);
            arguments.push(format!("{name}.p12"));
            arguments.push(format!("{name}-trust.p12"));
        }
        let name = format!("{algorithm:?}");
        files.write(&format!("{name}.jks"), &*jks_keystore(&bundle, "Web", "pässword").unwrap());
        files.write(&format!("{name}-trust.jks"), jks_truststore(anchors, "pässword").unwrap());
        arguments.push(format!("{name}.jks"));
        arguments.push(format!("{name}-trust.jks"));
    }
    let output =
        run(Command::new("java").arg("Check").args(&arguments).current_dir(files.directory.path()));
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.matches("good").count(), arguments.len() / 2, "{output}");
}

/// For each keystore and truststore: the key under its alias signs what the leaf's public key
/// verifies, the chain is complete, and the anchor is trusted.
const JAVA_CHECK: &str = r#"
import java.io.*;
import java.security.*;
import java.security.cert.X509Certificate;

public class Check {
    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < arguments.length; i += 2) {
            KeyStore keys = open(arguments[i]);
            KeyStore trust = open(arguments[i + 1]);
            PrivateKey key = (PrivateKey) keys.getKey("Web", password(arguments[i]));
            var chain = keys.getCertificateChain("Web");
            String algorithm = switch (key.getAlgorithm()) {
                case "EC" -> "SHA256withECDSA";
                case "RSA" -> "SHA256withRSA";
                default -> key.getAlgorithm();
            };
            Signature signature = Signature.getInstance(algorithm);
            signature.initSign(key);
            signature.update(new byte[3]);
            byte[] signed = signature.sign();
            signature.initVerify(chain[0].getPublicKey());
            signature.update(new byte[3]);
            var anchor = (X509Certificate) trust.getCertificate("ca");
            require(signature.verify(signed), "key");
            require(chain.length >= 2, "chain of " + chain.length);
            chain[0].verify(chain[1].getPublicKey());
            chain[1].verify(anchor.getPublicKey());
            require(keys.isCertificateEntry("ca"), "anchor in the keystore");
            require(trust.isCertificateEntry("ca") && trust.size() == 1, "anchor");
            require(keys.getCertificate("ca").equals(anchor), "same anchor");
            System.out.println("good");
        }
    }

    static KeyStore open(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(file.endsWith(".jks") ? "JKS" : "PKCS12");
        try (var in = new FileInputStream(file)) {
            store.load(in, password(file));
        }
        return store;
    }

    // In PKCS#12, Java takes ASCII only.
    static char[] password(String file) {
        return (file.endsWith(".jks") ? "p\u00e4ssword" : "changeit").toCharArray();
    }

    static void require(boolean fact, String what) {
        if (!fact) throw new AssertionError(what);
    }
}
"#;

#[test]
#[ignore = "needs go; .ci/run runs it"]
fn go_verifies() {
    let program = Files::empty();
    program.write("check.go", GO_CHECK);
    let all: Vec<_> =
        ALGORITHMS.iter().map(|algorithm| Files::new(*algorithm, *algorithm)).collect();
    let output = run(Command::new("go")
        .args(["run", "check.go"])
        .args(all.iter().map(|files| files.directory.path()))
        .env("GO111MODULE", "off")
        .current_dir(program.directory.path()));
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.matches("good").count(), ALGORITHMS.len(), "{output}");
}

/// For each directory: the pair loads and the chain verifies for the name and both usages.
const GO_CHECK: &str = r#"
package main

import (
    "crypto/tls"
    "crypto/x509"
    "fmt"
    "os"
    "path/filepath"
)

func main() {
    for _, directory := range os.Args[1:] {
        pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key"))
        check(err)
        anchors, err := os.ReadFile(filepath.Join(directory, "ca.crt"))
        check(err)
        roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
        roots.AppendCertsFromPEM(anchors)
        for _, der := range pair.Certificate[1:] {
            intermediate, err := x509.ParseCertificate(der)
            check(err)
            intermediates.AddCert(intermediate)
        }
        leaf, err := x509.ParseCertificate(pair.Certificate[0])
        check(err)
        for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
            _, err = leaf.Verify(x509.VerifyOptions{DNSName: "web.example", Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}})
            check(err)
        }
        fmt.Println("good")
    }
}

func check(err error) {
    if err != nil {
        panic(err)
    }
}
"#;

#[test]
#[ignore = "needs python3; .ci/run runs it"]
fn python_speaks_mutual_tls() {
    let program = Files::empty();
    program.write("check.py", PYTHON_CHECK);
    let all: Vec<_> = ALGORITHMS.map(|algorithm| Files::new(algorithm, algorithm)).into();
    let output = run(Command::new("python3")
        .arg(program.path("check.py"))
        .args(all.iter().map(|files| files.directory.path())));
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.matches("good").count(), all.len(), "{output}");
}

/// For each directory: a server and a client with the same pair accept each other, strictly.
const PYTHON_CHECK: &str = r#"
import pathlib, ssl, sys

def context(directory, protocol):
    context = ssl.SSLContext(protocol)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    context.load_verify_locations(directory / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context

for directory in map(pathlib.Path, sys.argv[1:]):
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context(directory, ssl.PROTOCOL_TLS_SERVER).wrap_bio(up, down, server_side=True)
    client = context(directory, ssl.PROTOCOL_TLS_CLIENT).wrap_bio(down, up, server_hostname="web.example")
    waiting = [client, server]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert server.getpeercert() and client.getpeercert()["subjectAltName"] == (("DNS", "web.example"),)
    print("good")
"#;

/// A directory with `tls.crt`, `tls.key` and `ca.crt`, removed at the end.
struct Files {
    directory: TempDir,
}

impl Files {
    fn empty() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    /// `web.example`, below an intermediate, below a root of a hard name.
    fn new(ca_algorithm: KeyAlgorithm, algorithm: KeyAlgorithm) -> Self {
        let ca = authority(ca_algorithm);
        let (key, template) = (key(algorithm), template(&["web.example"]));
        let information = AuthorityInformation::default();
        let leaf = ca.sign(&template, key.public_key_info(), validity(), &information).unwrap();
        let issued = Issued {
            chain: [&[leaf], ca.intermediates()].concat(),
            trust_anchors: ca.trust_anchors().to_vec(),
        };
        Self::of(Bundle::new(key, issued, &template, DAY, now()).unwrap())
    }

    fn of(bundle: Bundle) -> Self {
        let files = Self::empty();
        let chain = [bundle.leaf()].into_iter().chain(bundle.intermediates());
        files.write("tls.crt", chain_to_pem(chain));
        files.write("tls.key", bundle.key().to_pem(KeyEncoding::Pkcs8).unwrap().as_bytes());
        files.write("ca.crt", chain_to_pem(bundle.trust_anchors()));
        files.write("state", &*bundle.to_state());
        files
    }

    fn bundle(&self) -> Bundle {
        Bundle::from_state(&self.read("state")).unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let output = run(Command::new("openssl").args(arguments).current_dir(&self.directory));
        // It writes the names in keystores as Latin-1.
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn openssl_verify(&self, name: &str) {
        for purpose in ["sslserver", "any"] {
            self.openssl(&[
                "verify",
                "-x509_strict",
                "-check_ss_sig",
                "-purpose",
                purpose,
                "-verify_hostname",
                name,
                "-CAfile",
                "ca.crt",
                "-untrusted",
                "tls.crt",
                "tls.crt",
            ]);
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{} failed\n{}\n{}",
        command.get_program().display(),
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

fn shake_hands(mut client: ClientConnection, mut server: ServerConnection) {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn validity() -> Validity {
    Validity { not_before: now() - Duration::from_secs(3600), not_after: now() + DAY }
}

fn key(algorithm: KeyAlgorithm) -> Arc<PrivateKey> {
    cached_key("leaf", algorithm)
}

/// The same for each role and algorithm, because large RSA keys take long to make.
fn cached_key(role: &'static str, algorithm: KeyAlgorithm) -> Arc<PrivateKey> {
    type Keys = HashMap<(&'static str, KeyAlgorithm), Arc<PrivateKey>>;
    static KEYS: LazyLock<Mutex<Keys>> = LazyLock::new(Mutex::default);
    let mut keys = KEYS.lock().unwrap();
    let make = || Arc::new(PrivateKey::generate(algorithm).unwrap());
    Arc::clone(keys.entry((role, algorithm)).or_insert_with(make))
}

fn template(dns_names: &[&str]) -> Template {
    Template {
        subject: DistinguishedName::default(),
        subject_alt_names: dns_names.iter().map(|name| GeneralName::dns(name).unwrap()).collect(),
        usages: KeyUsages::parse(["digital signature", "server auth", "client auth"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    }
}

fn root(algorithm: KeyAlgorithm) -> CertificateAuthority {
    let (key, template) = (cached_key("root", algorithm), ca_template(HARD_SUBJECT, None));
    let root = self_sign(&template, &key, validity(), &AuthorityInformation::default()).unwrap();
    CertificateAuthority::new(vec![root], Vec::new(), key).unwrap()
}

/// With a key of `algorithm`, below a root whose key is of the same.
fn authority(algorithm: KeyAlgorithm) -> CertificateAuthority {
    let parent = root(algorithm);
    let key = cached_key("intermediate", algorithm);
    let template = ca_template(&format!("CN=2,{HARD_SUBJECT}"), Some(0));
    let information = AuthorityInformation::default();
    let ca = parent.sign(&template, key.public_key_info(), validity(), &information).unwrap();
    CertificateAuthority::new(vec![ca], parent.trust_anchors().to_vec(), key).unwrap()
}
