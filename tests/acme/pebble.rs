//! Pebble with its DNS server, as child processes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::clock::Clock;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    GeneralName, KeyAlgorithm, KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template,
    Validity, certificates_from_pem, chain_to_pem, self_sign,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// What a test wants of the server.
pub struct Options {
    /// Where it listens, and what every name leads to.
    pub address: &'static str,
    /// Where it asks for HTTP-01; a free port where that is `None`.
    pub http_port: Option<u16>,
    /// The same for TLS-ALPN-01.
    pub tls_port: Option<u16>,
    /// How long the certificates of a profile `seconds` hold, in seconds.
    pub seconds: Option<u64>,
    /// Whether accounts have to be bound.
    pub external_account: bool,
    /// Where it looks names up instead of at a server that knows every name.
    pub dns_server: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: "127.0.0.1",
            http_port: None,
            tls_port: None,
            seconds: None,
            external_account: false,
            dns_server: None,
        }
    }
}

/// A server in a folder of its own; killed when it is dropped.
pub struct Pebble {
    folder: tempfile::TempDir,
    children: Vec<Child>,
    address: &'static str,
    port: u16,
    management: u16,
    dns_management: u16,
    /// Where it asks for HTTP-01 and TLS-ALPN-01.
    pub http_port: u16,
    pub tls_port: u16,
    ca: String,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Pebble {
    pub fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, management, http_port, tls_port, dns, dns_management] =
            std::array::from_fn(|_| free_port());
        let http_port = options.http_port.unwrap_or(http_port);
        let tls_port = options.tls_port.unwrap_or(tls_port);
        let address = options.address;
        let ca = server_certificate(folder.path(), address);
        let path = |name: &str| folder.path().join(name);
        let mut config = json!({"pebble": {
            "listenAddress": format!("{address}:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("server.crt"),
            "privateKey": path("server.key"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": options.external_account,
            "externalAccountMACKeys":
                {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"},
            "domainBlocklist": ["blocked-domain.example"],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {
                "default": {"description": "90 days", "validityPeriod": 7_776_000},
                "shortlived": {"description": "6 days", "validityPeriod": 518_400},
            },
        }});
        // A client that wants none of them gets any of them.
        if let Some(seconds) = options.seconds {
            config["pebble"]["profiles"]["seconds"] =
                json!({"description": "seconds", "validityPeriod": seconds});
        }
        fs::write(path("config.json"), config.to_string()).unwrap();
        let log = |name: &str| Stdio::from(File::create(path(name)).unwrap());
        let dns_address = format!("127.0.0.1:{dns}");
        let mut names = Command::new("pebble-challtestsrv");
        names
            .args(["-dnsserver", &dns_address, "-defaultIPv4", address, "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""])
            .args(["-management", &format!("127.0.0.1:{dns_management}")])
            .stdout(log("dns.log"))
            .stderr(log("dns.err"));
        let mut server = Command::new("pebble");
        server
            .arg("-config")
            .arg(path("config.json"))
            .args(["-dnsserver", options.dns_server.unwrap_or(&dns_address), "-strict"])
            .envs([
                ("PEBBLE_VA_NOSLEEP", "1"),
                ("PEBBLE_WFE_NONCEREJECT", "20"),
                ("PEBBLE_ALTERNATE_ROOTS", "2"),
                ("PEBBLE_CHAIN_LENGTH", "2"),
                ("PEBBLE_AUTHZREUSE", "0"),
            ])
            .stdout(log("pebble.log"))
            .stderr(log("pebble.err"));
        let children = [names, server].map(|mut command| {
            command
                .stdin(Stdio::null())
                .spawn()
                .expect("pebble and pebble-challtestsrv are on the PATH")
        });
        let children = children.into_iter().collect();
        let pebble = Self {
            folder,
            children,
            address,
            port,
            management,
            dns_management,
            http_port,
            tls_port,
            ca,
        };
        let begin = Instant::now();
        for (address, port) in
            [(address, port), ("127.0.0.1", management), ("127.0.0.1", dns_management)]
        {
            while StdStream::connect((address, port)).is_err() {
                assert!(begin.elapsed() < PATIENCE, "{}", pebble.log());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        pebble
    }

    /// A ClusterIssuer `acme` that asks this server, for any name.
    pub fn issuer(&self, fields: &str) -> String {
        format!(
            "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata:\n  name: acme\n\
             spec:\n  acme:\n    server: {}\n    caBundle: {}\n    \
             privateKeySecretRef: {{name: acme-account}}\n    {fields}\n  policy:\n  - dnsNames: \
             ['*.example.com', blocked-domain.example]\n    ipRanges: [127.0.0.0/8]\n",
            self.directory(),
            self.ca_bundle(),
        )
    }

    /// The URL that clients are given.
    pub fn directory(&self) -> String {
        format!("https://{}:{}/dir", self.address, self.port)
    }

    /// What `caBundle` must say to trust it.
    pub fn ca_bundle(&self) -> String {
        STANDARD.encode(&self.ca)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        ["pebble.log", "pebble.err", "dns.log", "dns.err"].map(read).concat()
    }

    /// How many orders and accounts there are.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    pub fn accounts(&self) -> usize {
        self.log().matches("accounts in memory").count()
    }

    /// One of its roots, in PEM.
    pub fn root(&self, number: usize) -> String {
        self.https(self.management, "GET", &format!("/roots/{number}"), "")
    }

    /// The common name of one of its roots.
    pub fn root_name(&self, number: usize) -> String {
        let root = certificates_from_pem(self.root(number).as_bytes()).unwrap().remove(0);
        root.subject().strip_prefix("CN=").unwrap().to_owned()
    }

    /// Has the server say that it wants `certificate` replaced at once (RFC 9773).
    pub fn want_renewed(&self, certificate: &Certificate) {
        let start = certificate.validity().not_before;
        let end = start + Duration::from_secs(1);
        let window = json!({"suggestedWindow":
            {"start": start.to_string(), "end": end.to_string()}});
        let body = json!({
            "Certificate": chain_to_pem([certificate]),
            "ARIResponse": window.to_string(),
        });
        self.https(self.management, "POST", "/set-renewal-info/", &body.to_string());
    }

    /// Puts a TXT record into its DNS.
    pub fn set_txt(&self, host: &str, value: &str) {
        let body = json!({"host": host, "value": value}).to_string();
        let mut stream = StdStream::connect(("127.0.0.1", self.dns_management)).unwrap();
        write!(
            stream,
            "POST /set-txt HTTP/1.1\r\nHost: dns\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Asks with openssl, which is no part of what is tested.
    fn https(&self, port: u16, method: &str, path: &str, body: &str) -> String {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-no_ign_eof"])
            .args(["-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is on the PATH");
        let mut stdin = client.stdin.take().unwrap();
        write!(
            stdin,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: test\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stdin.flush().unwrap();
        let mut answer = String::new();
        client.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        drop(stdin);
        client.wait().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        body.to_owned()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes certificate and key of a server at `address`; answers the PEM of the CA that signed it.
pub fn server_certificate(folder: &Path, address: &str) -> String {
    let now = Clock::system().now();
    let hour = Duration::from_secs(3600);
    let validity = Validity { not_before: now - hour, not_after: now + 24 * hour };
    let information = AuthorityInformation::default();
    let template = |subject: &str, names: Vec<GeneralName>, basic_constraints| Template {
        subject: DistinguishedName::from_rfc4514(subject).unwrap(),
        subject_alt_names: names,
        usages: KeyUsages::default(),
        basic_constraints,
        name_constraints: NameConstraints::default(),
    };
    let key = || PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let root_key = key();
    let root = template("CN=the server's own", Vec::new(), BasicConstraints::Ca { path_len: None });
    let root = self_sign(&root, &root_key, validity, &information).unwrap();
    let ca = CertificateAuthority::new(vec![root.clone()], Vec::new(), root_key.into()).unwrap();
    let names = vec![GeneralName::ip(address).unwrap()];
    let server = template("CN=server", names, BasicConstraints::EndEntity);
    let key = key();
    let server = ca.sign(&server, key.public_key_info(), validity, &information).unwrap();
    fs::write(folder.join("server.crt"), chain_to_pem([&server])).unwrap();
    let key = key.to_pem(KeyEncoding::Sec1).unwrap();
    fs::write(folder.join("server.key"), key.as_bytes()).unwrap();
    chain_to_pem([&root])
}

/// What `attempt` answers when it first succeeds; kubelet asks again as well.
pub async fn eventually<T, E: std::fmt::Display>(attempt: impl AsyncFn() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(begin.elapsed() < 9 * PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A port that leads to another one, once it is opened.
pub struct Gate {
    /// Where it leads.
    pub behind: u16,
    knocked: watch::Receiver<bool>,
    open: Option<oneshot::Sender<()>>,
}

impl Gate {
    pub fn new(port: u16, behind: u16) -> Self {
        let (knock, knocked) = watch::channel(false);
        let (open, opened) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let (mut first, _) = listener.accept().await.unwrap();
            knock.send_replace(true);
            let _ = opened.await;
            loop {
                if let Ok(mut through) = TcpStream::connect(("127.0.0.1", behind)).await {
                    tokio::spawn(async move {
                        let _ = tokio::io::copy_bidirectional(&mut first, &mut through).await;
                    });
                }
                (first, _) = listener.accept().await.unwrap();
            }
        });
        Self { behind, knocked, open: Some(open) }
    }

    /// Returns when somebody stands before it.
    pub async fn knocked(&self) {
        let mut knocked = self.knocked.clone();
        knocked.wait_for(|knocked| *knocked).await.unwrap();
    }

    pub fn open(mut self) {
        let _ = self.open.take().unwrap().send(());
    }
}
