//! An OpenBao server on the node, in memory, as its operator sets it up: by its own command.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::TempDir;

use crate::common::output_with;
use crate::kubernetes::{NODE, eventually};
use crate::pebble::server_certificate;

/// The server, until it is dropped. Has a CA at `pki`, the role `web` there, and the policy
/// `certmount`, which may sign by that role and no more.
pub(crate) struct Bao {
    server: Child,
    folder: TempDir,
    port: u16,
    server_ca: String,
    /// What its CA ends at, in PEM.
    pub(crate) root: String,
}

impl Bao {
    /// Call it with the node's network.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server_ca = server_certificate(folder.path(), NODE);
        let [port, local] = [NODE, "127.0.0.1"]
            .map(|address| TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port());
        let config = json!({"listener": {"tcp": {
            "address": format!("{NODE}:{port}"),
            "tls_cert_file": folder.path().join("server.crt"),
            "tls_key_file": folder.path().join("server.key"),
        }}});
        let path = |name: &str| folder.path().join(name);
        File::create(path("config.json"))
            .unwrap()
            .write_all(config.to_string().as_bytes())
            .unwrap();
        let log = File::create(path("log")).unwrap();
        let server = Command::new("bao")
            .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"])
            .arg(format!("-dev-listen-address=127.0.0.1:{local}"))
            .arg(format!("-config={}", path("config.json").display()))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("bao is on the PATH");
        let mut bao = Self { server, folder, port, server_ca, root: String::new() };
        eventually("OpenBao is set up", || {
            // Printed last, when everything is there.
            let log = fs::read_to_string(bao.folder.path().join("log")).unwrap();
            log.contains("Development mode should NOT be used").then_some(())
        });
        bao.run("secrets enable -max-lease-ttl=87600h pki", "");
        bao.root = bao.run(
            "write -field=certificate pki/root/generate/internal common_name=root key_type=ec ttl=87600h",
            "",
        );
        bao.run(
            "write pki/roles/web key_type=any require_cn=false allowed_domains=svc,shop.example.com \
             allow_subdomains=true allowed_uri_sans=spiffe://cluster.local/* max_ttl=24h \
             no_store=true",
            "",
        );
        let policy = r#"path "pki/sign/web" { capabilities = ["update"] }"#;
        bao.run("policy write certmount -", policy);
        bao
    }

    /// The URL that clients are given.
    pub(crate) fn url(&self) -> String {
        format!("https://{NODE}:{}", self.port)
    }

    /// What `caBundle` must say to trust it.
    pub(crate) fn ca_bundle(&self) -> String {
        STANDARD.encode(&self.server_ca)
    }

    /// A token with that policy.
    pub(crate) fn token(&self, policy: &str) -> String {
        self.run(&format!("token create -field=token -policy={policy} -ttl=1h -orphan"), "")
    }

    /// What a command of `bao` prints, whose words have no spaces.
    pub(crate) fn run(&self, command: &str, input: &str) -> String {
        let mut words = command.split_whitespace();
        // Flags come between the command and its arguments.
        let mut bao = Command::new("bao");
        bao.args(words.by_ref())
            .env("HOME", self.folder.path())
            .env("BAO_ADDR", self.url())
            .env("BAO_TOKEN", "root")
            .env("BAO_CACERT", self.ca_file());
        let output = output_with(&mut bao, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bao {command}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ca_file(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("ca.crt");
        File::create(&path).unwrap().write_all(self.server_ca.as_bytes()).unwrap();
        path
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
