//! Secrets are planted wherever they can come in, and everything that is printed is searched.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::clock::Clock;
use certmount::csi::client::InlineVolume;
use certmount::issuer::{Ca, CaLimits, CaMaterial};
use certmount::spec::object;
use certmount::spec::request::{NodeContext, PublishRequest, RawRequest, Secrets};
use certmount::volume::Record;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Bundle, DistinguishedName, Issued, KeyAlgorithm,
    KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template, Validity, self_sign,
};

use common::{Plugin, namespaced_async};

/// Everything that must not be found, in each form that printing could give it.
#[derive(Default)]
struct Planted(Vec<(String, Vec<String>)>);

impl Planted {
    /// Plants a text, and answers it.
    fn text(&mut self, name: &str) -> String {
        let text = format!("planted-{name}-7c1f9e");
        let forms = vec![text.clone(), STANDARD.encode(&text), decimal(text.as_bytes())];
        self.0.push((name.to_owned(), forms));
        text
    }

    /// Plants what an EC key in PKCS#8 DER keeps secret.
    fn key(&mut self, name: &str, pkcs8: &[u8]) {
        // RFC 5915: the scalar is an octet string of 32 bytes.
        let at = pkcs8.windows(2).position(|bytes| bytes == [0x04, 0x20]);
        let at = at.expect("a P-256 key in PKCS#8 has a scalar") + 2;
        let scalar = &pkcs8[at..at + 32];
        let hex = scalar.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("strings take all");
            hex
        });
        let base64 = STANDARD.encode(pkcs8);
        let lines = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into());
        // The first line of a PEM key holds its algorithm as well; the second one is all secret.
        let mut forms: Vec<String> = lines.skip(1).take(1).collect();
        forms.extend([hex.clone(), hex.to_uppercase(), decimal(scalar)]);
        self.0.push((name.to_owned(), forms));
    }

    /// Checks that nothing of it is in `text`, which came from `source`.
    #[track_caller]
    fn are_not_in(&self, source: &str, text: &str) {
        for (name, forms) in &self.0 {
            for form in forms {
                assert!(!text.contains(form.as_str()), "{name} is in {source}, as {form}:\n{text}");
            }
        }
    }
}

/// As `{:?}` prints bytes.
fn decimal(bytes: &[u8]) -> String {
    bytes.iter().take(12).map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// A root CA: its certificate as PEM, and its key.
fn root() -> (String, PrivateKey) {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let now = Clock::system().now();
    let validity =
        Validity { not_before: now, not_after: now + Duration::from_secs(10 * 365 * 86_400) };
    let template = Template {
        subject: DistinguishedName::from_rfc4514("CN=root").expect("a name"),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::parse(["cert sign"]).expect("a usage"),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    };
    let root = self_sign(&template, &key, validity, &AuthorityInformation::default());
    let root = root.expect("a root");
    (certmount::x509::chain_to_pem([&root]), key)
}

/// The issuer `root` with its Secret.
fn root_yaml(planted: &mut Planted) -> String {
    let (certificate, key) = root();
    planted.key("the CA's key", key.pkcs8_der());
    let key = key.to_pem(KeyEncoding::Pkcs8).expect("PEM");
    let unused = planted.text("unused-value-of-the-secret");
    let [certificate, key, unused] =
        [certificate.as_bytes(), key.as_bytes(), unused.as_bytes()].map(|it| STANDARD.encode(it));
    format!(
        "apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {{name: root}}
spec: {{ca: {{secretName: root}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: root}}
data:
  tls.crt: {certificate}
  tls.key: {key}
  other: {unused}
"
    )
}

/// Secrets with mistakes in them, which must be reported without what they hold.
fn broken_yaml(planted: &mut Planted) -> String {
    let (value, plain) = (planted.text("broken-base64"), planted.text("broken-key"));
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: broken}}
data:
  tls.key: \"{value}!\"
---
apiVersion: v1
kind: Secret
metadata: {{name: nonsense}}
stringData:
  tls.crt: {plain}
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    {plain}
    -----END PRIVATE KEY-----
---
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {{name: nonsense}}
spec: {{ca: {{secretName: nonsense}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: misspelt}}
stringdata:
  tls.key: {plain}
"
    )
}

/// A volume with every kind of password, of which some are in attributes and some in a Secret.
fn volume(pod: &str, issuer: &str, planted: &mut Planted) -> InlineVolume {
    let jks = planted.text("jks-password");
    let mut volume = InlineVolume::new(
        "shop",
        pod,
        &[
            ("certmount.dev/issuer-kind", "ClusterIssuer"),
            ("certmount.dev/issuer-name", issuer),
            ("certmount.dev/dns-names", "web.shop.svc"),
            ("certmount.dev/key-algorithm", "ECDSA"),
            ("certmount.dev/jks-file", "keystore.jks"),
            ("certmount.dev/jks-password", &jks),
            ("certmount.dev/pkcs12-enable", "true"),
            ("certmount.dev/pkcs12-password-key", "p12"),
            ("certmount.dev/privatekey-encrypted-file", "encrypted.key"),
            ("certmount.dev/privatekey-password-key", "pem"),
        ],
    );
    let token = planted.text("service-account-token");
    let tokens =
        format!(r#"{{"":{{"token":"{token}","expirationTimestamp":"2030-01-01T00:00:00Z"}}}}"#);
    volume.secrets = BTreeMap::from([
        ("p12".to_owned(), planted.text("pkcs12-password")),
        ("pem".to_owned(), planted.text("pem-password")),
        ("unused".to_owned(), planted.text("unused-secret")),
        ("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens),
    ]);
    volume
}

#[test]
fn nothing_that_the_driver_prints_holds_a_secret() {
    namespaced_async(|| async {
        let mut planted = Planted::default();
        let files =
            [("root.yaml", root_yaml(&mut planted)), ("broken.yaml", broken_yaml(&mut planted))];
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        // Everything at trace: our own code and all libraries.
        let args = ["--log-format", "json", "--log-level", "trace,certmount=trace"];
        let mut plugin = Plugin::with_arguments(&files, &args);
        let kubelet = plugin.kubelet();
        let mut seen = Vec::new();

        let good = volume("web-0", "root", &mut planted);
        let target = kubelet.publish(&good).await.unwrap();
        let key = PrivateKey::from_pem(&std::fs::read(target.join("tls.key")).unwrap()).unwrap();
        planted.key("the pod's key", key.pkcs8_der());
        let record = plugin.data_root().join(good.id()).join("record.json");
        planted.are_not_in("record.json", &std::fs::read_to_string(record).unwrap());
        // Again with another password, as after an edit of the Secret.
        let mut again = good.clone();
        again.secrets.insert("p12".to_owned(), planted.text("second-password"));
        kubelet.publish(&again).await.unwrap();

        // Passwords in all the wrong places.
        let waiting = volume("web-1", "nonsense", &mut planted);
        seen.push(("status of a waiting volume", kubelet.publish(&waiting).await));
        for attribute in ["pkcs12-pasword", "jks-pasword", "privatekey_password"] {
            let mut wrong = volume("web-2", "root", &mut planted);
            let password = planted.text(attribute);
            wrong.attributes.insert(format!("certmount.dev/{attribute}"), password);
            seen.push(("status of a misspelt password", kubelet.publish(&wrong).await));
        }
        let mut without = volume("web-3", "root", &mut planted);
        without.secrets.remove("p12");
        seen.push(("status without a password", kubelet.publish(&without).await));
        let mut elsewhere = good.clone();
        elsewhere.attributes.insert("certmount.dev/jks-password".into(), planted.text("changed"));
        seen.push(("status of a changed password", kubelet.publish(&elsewhere).await));

        for (source, published) in seen {
            if let Err(status) = published {
                planted.are_not_in(source, &format!("{status} {status:?}"));
            }
        }
        for path in ["/metrics", "/v1/volumes", "/readyz", "/healthz"] {
            planted.are_not_in(path, &plugin.get(path).1);
        }
        let printed = |args: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_certmount")).args(args).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).into_owned()
        };
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        for output in ["table", "wide", "json"] {
            for place in [
                ["--socket".to_owned(), text(&plugin.admin_socket())],
                ["--dir".to_owned(), text(&plugin.data_root())],
                ["--dir".to_owned(), text(&target)],
            ] {
                let printed = printed(&["inspect", &place[0], &place[1], "-o", output]);
                assert!(printed.contains("web") || printed.contains("tls.crt"), "{printed}");
                planted.are_not_in("inspect", &printed);
            }
        }
        plugin.configure("pod.yaml", &manifest(&waiting));
        for output in ["text", "json"] {
            let printed = printed(&["check", &text(&plugin.path("config")), "-o", output]);
            assert!(printed.contains("broken.yaml"), "{printed}");
            planted.are_not_in("check", &printed);
        }

        kubelet.unpublish(&waiting).await.unwrap();
        plugin.restart();
        kubelet.publish(&good).await.unwrap();
        kubelet.unpublish(&good).await.unwrap();
        let ended = plugin.terminate();
        let log = plugin.log();
        assert!(ended.success(), "{ended}; the log is\n{log}");
        for part in ["\"TRACE\"", "\"h2::", "certificate issued", "volume removed", "broken.yaml"] {
            assert!(log.contains(part), "the log is too quiet to be searched: no {part} in\n{log}");
        }
        planted.are_not_in("the log", &log);
    });
}

/// The pod of `volume` as YAML.
fn manifest(volume: &InlineVolume) -> String {
    let attributes = volume.attributes.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "        {key}: \"{value}\"").expect("strings take all");
        text
    });
    format!(
        "kind: Pod
metadata: {{name: {}, namespace: {}}}
spec:
  volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      nodePublishSecretRef: {{name: passwords}}
      volumeAttributes:
{attributes}",
        volume.pod.name, volume.pod.namespace
    )
}

#[test]
fn debug_output_holds_no_secret() {
    let mut planted = Planted::default();
    let yaml = root_yaml(&mut planted) + "---\n" + &broken_yaml(&mut planted);
    let objects = object::parse(&yaml);
    for object in &objects {
        planted.are_not_in("an object", &format!("{object:?} {object:#?}"));
    }

    let inline = volume("web-0", "root", &mut planted);
    let attributes: BTreeMap<_, _> = inline.context().into_iter().collect();
    let secrets =
        || Secrets(inline.secrets.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect());
    let raw = RawRequest {
        volume_id: &inline.id(),
        target_path: &format!(
            "/k/pods/{}/volumes/kubernetes.io~csi/{}/mount",
            inline.pod.uid, inline.name
        ),
        attributes: &attributes,
        volume_mount_group: "",
        pod_ip: None,
    };
    let node = NodeContext { driver_name: "d".to_owned(), node_name: "n".to_owned() };
    let request = PublishRequest::parse(raw, &secrets(), &node).unwrap();
    planted.are_not_in("secrets", &format!("{:?} {:#?}", secrets(), secrets()));
    planted.are_not_in("a raw request", &format!("{raw:?} {raw:#?}"));
    planted.are_not_in("a request", &format!("{request:?} {request:#?}"));
    let record = Record::new(raw, true, secrets());
    planted.are_not_in("a record", &format!("{record:?} {record:#?}"));

    let (certificate, key) = root();
    planted.key("a key", key.pkcs8_der());
    planted.are_not_in("a key", &format!("{key:?} {key:#?}"));
    let pem = key.to_pem(KeyEncoding::Pkcs8).unwrap();
    let material = CaMaterial {
        certificates: certificate.into_bytes(),
        key: pem.as_bytes().to_vec().into(),
        anchors: None,
    };
    planted.are_not_in("CA material", &format!("{material:?} {material:#?}"));
    let authority = material.load().unwrap();
    planted.are_not_in("an authority", &format!("{authority:?} {authority:#?}"));
    let limits = CaLimits { max_duration: None, backdate: Duration::ZERO, path_len: None };
    let ca = Ca::new(authority, AuthorityInformation::default(), limits, Clock::system());
    planted.are_not_in("an issuer", &format!("{ca:?} {ca:#?}"));

    let leaf = Template {
        subject: DistinguishedName::from_rfc4514("CN=leaf").unwrap(),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    };
    let now = Clock::system().now();
    let validity = Validity { not_before: now, not_after: now + Duration::from_secs(3600) };
    let certificate = self_sign(&leaf, &key, validity, &AuthorityInformation::default()).unwrap();
    let issued = Issued { chain: vec![certificate.clone()], trust_anchors: vec![certificate] };
    let bundle = Bundle::new(Arc::new(key), issued, &leaf, Duration::from_secs(3600), now).unwrap();
    planted.are_not_in("a bundle", &format!("{bundle:?} {bundle:#?}"));
    let payload = request.files.render(&bundle).unwrap();
    planted.are_not_in("a payload", &format!("{payload:?} {payload:#?}"));
}

/// The search itself: it must find what is there.
#[test]
fn a_leak_would_be_found() {
    let mut planted = Planted::default();
    let text = planted.text("password");
    let (_, key) = root();
    planted.key("key", key.pkcs8_der());
    let pem = key.to_pem(KeyEncoding::Pkcs8).unwrap();
    for leak in [
        format!("password={text}"),
        STANDARD.encode(&text),
        format!("{:?}", text.as_bytes()),
        pem.to_string(),
        format!("{:?}", key.pkcs8_der()),
    ] {
        let found = std::panic::catch_unwind(|| planted.are_not_in("a leak", &leak));
        assert!(found.is_err(), "not found in {leak}");
    }
    planted.are_not_in("innocent text", "planted, but not what was planted");
}
