//! step-ca, an ACME server that signs CA certificates where its template says so, and the DNS server
//! that it asks, as child processes.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::x509::{
    AuthorityInformation, KeyAlgorithm, KeyEncoding, PrivateKey, chain_to_pem, self_sign,
};
use serde_json::json;

use crate::common::ca_template;

/// A server with a root that it signs with; killed when it is dropped.
pub struct StepCa {
    folder: tempfile::TempDir,
    children: Vec<Child>,
    port: u16,
    /// Where it asks for HTTP-01.
    pub http_port: u16,
}

/// What it makes of a request: a CA that signs no CAs, for names below `svc`.
const TEMPLATE: &str = r#"{
    "subject": {{ toJson .Subject }},
    "keyUsage": ["certSign", "crlSign"],
    "basicConstraints": {"isCA": true, "maxPathLen": 0},
    "nameConstraints": {"critical": true, "permittedDNSDomains": ["svc"]}
}"#;

const PATIENCE: Duration = Duration::from_secs(20);

impl StepCa {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let template = ca_template("CN=RootCA", Some(1));
        let root = self_sign(&template, &key, super::validity(), &AuthorityInformation::default())
            .unwrap();
        fs::write(path("root.crt"), chain_to_pem([&root])).unwrap();
        fs::write(path("root.key"), key.to_pem(KeyEncoding::Sec1).unwrap().as_bytes()).unwrap();

        let [port, http_port, dns, management] = std::array::from_fn(|_| free_port());
        let provisioner = json!({
            "type": "ACME",
            "name": "intermediates",
            "challenges": ["http-01"],
            "claims": {"minTLSCertDuration": "5m", "defaultTLSCertDuration": "10m"},
            "options": {"x509": {"template": TEMPLATE}},
        });
        let config = json!({
            "root": path("root.crt"),
            "crt": path("root.crt"),
            "key": path("root.key"),
            "address": format!("127.0.0.1:{port}"),
            "dnsNames": ["127.0.0.1"],
            "logger": {"format": "text"},
            "db": {"type": "badgerv2", "dataSource": path("db")},
            "authority": {"provisioners": [provisioner]},
        });
        fs::write(path("ca.json"), config.to_string()).unwrap();

        let dns = format!("127.0.0.1:{dns}");
        let mut names = Command::new("pebble-challtestsrv");
        names
            .args(["-dnsserver", &dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""])
            .args(["-management", &format!("127.0.0.1:{management}")]);
        let mut server = Command::new("step-ca");
        server
            .args(["--insecure", "--acme-http-port", &http_port.to_string()])
            .args(["--resolver", &dns])
            .arg(path("ca.json"));
        let log = File::create(path("log")).unwrap();
        let children = [names, server].map(|mut command| {
            let (out, errors) = (log.try_clone().unwrap(), log.try_clone().unwrap());
            let command = command.stdin(Stdio::null()).stdout(out).stderr(errors);
            command.spawn().expect("step-ca and pebble-challtestsrv are on the PATH")
        });
        let step = Self { children: children.into_iter().collect(), folder, port, http_port };
        let begin = Instant::now();
        for port in [management, port] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(begin.elapsed() < PATIENCE, "{}", step.log());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        step
    }

    /// Ends the server, and the one that it asks.
    pub fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A ClusterIssuer `root` that asks it.
    pub fn issuer(&self) -> String {
        format!(
            "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata:\n  name: root\n\
             spec:\n  acme:\n    server: https://127.0.0.1:{}/acme/intermediates/directory\n    \
             caBundle: {}\n    privateKeySecretRef:\n      name: step-account\n    solvers:\n    - \
             http01: {{}}\n",
            self.port,
            STANDARD.encode(fs::read(self.root()).unwrap()),
        )
    }

    /// The file with its root.
    pub fn root(&self) -> PathBuf {
        self.path("root.crt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How many orders there were.
    pub fn orders(&self) -> usize {
        self.log().matches("path=/acme/intermediates/new-order").count()
    }
}

impl Drop for StepCa {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
