//! What a publish adds to the time that a CA elsewhere takes.
//!
//! The same server signs for a publish and for a caller that wants nothing but the certificate, in
//! turns, so that both find the same machine. The caller makes a key and a request each time, as the
//! plugin does. OpenBao is called with an HTTP client and nothing else; for ACME and Venafi, whose
//! protocols are long, the caller is certmount's own issuer without plugin and volume.

#[path = "../../tests/vault/bao.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a part of the tests"
)]
mod bao;
#[path = "../../tests/acme/pebble.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a part of the tests"
)]
mod pebble;
#[path = "../../tests/venafi/server.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a part of the tests")]
mod server;
#[path = "../../tests/venafi/tpp.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a part of the tests")]
mod tpp;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use certmount::clock::Clock;
use certmount::config::{self, Running};
use certmount::issuer::{HandleStore, Order, Requester, Surroundings, Warnings};
use certmount::spec::policy::Cluster;
use certmount::spec::request::CertificateSpec;
use certmount::spec::tokens::PodTokens;
use certmount::spec::volume::{IssuerRef, PodRef, VolumeId};
use certmount::x509::{
    CertificationRequest, DistinguishedName, GeneralName, KeyAlgorithm, PrivateKey, Template,
    certificates_from_pem,
};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::Sizes;
use crate::floor;
use crate::load::{NAMESPACE, publish, unpublish_all, volume, volumes};
use crate::plugin::{NODE, Plugin, Stage};
use crate::report::{Report, milliseconds, percentile};

/// How many volumes log in together.
const CROWD: usize = 200;

/// Beside `sign`, called on a connection that is kept.
pub(crate) async fn vault(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let bao = bao::Bao::start_tls().await;
    stage.configure("vault.yaml", &bao.app_role_direct("web").await)?;
    let plugin = Plugin::start(stage).await?;
    let through = [("certmount.dev/issuer-name", "vault")];

    let tokens = bao.tokens().await;
    let crowd = volumes("crowd", CROWD, &through);
    let began = Instant::now();
    try_join_all(crowd.iter().map(|volume| publish(&stage.kubelet, volume))).await?;
    let took = began.elapsed();
    let logins = bao.tokens().await - tokens;
    unpublish_all(stage, &crowd).await?;

    let token = json!({"policies": ["certmount"], "ttl": "1h", "no_parent": true});
    let token = bao.put("auth/token/create", token).await;
    let token = bao::text(&token["auth"]["client_token"]);
    let url = format!("https://{}/v1/pki/sign/web", bao.address);
    let direct = async |name: &str| {
        let template = template(name)?;
        let began = Instant::now();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let request = CertificationRequest::new(&template, &key)?.to_pem();
        let call = bao.client.post(&url).header("X-Vault-Token", token);
        let call = call.json(&json!({"csr": request, "alt_names": name, "ttl": "24h"}));
        let answer: Value = call.send().await?.error_for_status()?.json().await?;
        let took = began.elapsed();
        let signed = certificates_from_pem(bao::text(&answer["data"]["certificate"]).as_bytes())?;
        ensure!(signed[0].public_key_info() == key.public_key_info(), "it is for another key");
        Ok(took)
    };
    beside("OpenBao", "vault", sizes.elsewhere, direct, stage, report).await?;
    report.target(
        &format!("logins for {CROWD} volumes at once through OpenBao"),
        logins.to_string(),
        "1",
        logins == 1,
    );
    report.row("  the last was there after", milliseconds(took));
    plugin.stop().await
}

/// Beside the same order without a volume. A TXT record that is there for good proves the name.
pub(crate) async fn acme(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let pebble = pebble::Pebble::start(pebble::Options::default());
    stage.configure("acme.yaml", &pebble.issuer("solvers: [{dnsPersist01: {}}]"))?;
    let client = Client::start(stage, "acme")?;
    // What to write is what the message says.
    let name = "web.example.com";
    let said = client.issue(name).await.err().context("the name is proved before it is")?;
    let said = format!("{said:#}");
    let record = said.split(" be \"").nth(1).and_then(|rest| rest.split('"').next());
    let record = record.with_context(|| format!("no record in {said}"))?;
    pebble.set_txt(&format!("_validation-persist.{name}."), record);

    let plugin = Plugin::start(stage).await?;
    let direct = async |_: &str| client.issue(name).await;
    beside("ACME", "acme", sizes.orders, direct, stage, report).await?;
    plugin.stop().await
}

/// Beside the same requests without a volume.
pub(crate) async fn venafi(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let tpp = tpp::Tpp::start().await;
    stage.configure(
        "venafi.yaml",
        &format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: tpp}}, stringData: {{access-token: \
             token-0}}}}\n---\n{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: \
             {{name: venafi}}, spec: {{venafi: {{zone: 'DevOps\\shop', tpp: {{url: '{}/vedsdk', \
             credentialsRef: {{name: tpp}}, caBundle: {}}}}}}}}}\n",
            tpp.server.url(),
            tpp.server.ca_bundle()
        ),
    )?;
    let client = Client::start(stage, "venafi")?;
    let plugin = Plugin::start(stage).await?;
    let direct = async |name: &str| client.issue(name).await;
    beside("Venafi", "venafi", sizes.elsewhere, direct, stage, report).await?;
    plugin.stop().await
}

/// `direct` and a publish through `issuer`, `count` times in turns.
async fn beside(
    what: &str,
    issuer: &str,
    count: usize,
    direct: impl AsyncFn(&str) -> Result<Duration>,
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    const LIMIT: Duration = Duration::from_millis(5);
    let through = volume_attributes(issuer);
    let through: Vec<_> = through.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (mut alone, mut calls) = (Vec::new(), Vec::new());
    // Connections, logins and accounts are made by the first.
    for number in 0..=count {
        let pod = format!("{issuer}-{number}");
        let took = direct(&format!("{pod}.{NAMESPACE}.svc")).await?;
        let volume = volume(&pod, &through);
        let published = publish(&stage.kubelet, &volume).await?;
        unpublish_all(stage, &[volume]).await?;
        if number > 0 {
            alone.push(at_work(took));
            calls.push(at_work(published.call));
        }
    }
    let (floor, p50) = (percentile(&alone, 50), percentile(&calls, 50));
    report.row(&format!("floor: {what} called directly, p50"), milliseconds(floor));
    report.row("  p99", milliseconds(percentile(&alone, 99)));
    report.row(&format!("publish through {what}, p50"), milliseconds(p50));
    report.row("  p99", milliseconds(percentile(&calls, 99)));
    let added = p50.saturating_sub(floor);
    report.target("  added to the floor, p50", milliseconds(added), "< 5 ms", added < LIMIT);
    Ok(())
}

/// An ACME server may have its clients wait a second before they look again, and at random does not:
/// whole seconds are left out.
fn at_work(took: Duration) -> Duration {
    Duration::from_nanos(took.subsec_nanos().into())
}

/// What volumes ask `issuer` for.
fn volume_attributes(issuer: &str) -> Vec<(&'static str, String)> {
    let names = match issuer {
        "acme" => "web.example.com",
        _ => "${POD_NAME}.${POD_NAMESPACE}.svc",
    };
    vec![
        ("certmount.dev/issuer-name", issuer.to_owned()),
        ("certmount.dev/dns-names", names.to_owned()),
        ("certmount.dev/common-name", names.to_owned()),
        ("certmount.dev/duration", "24h".to_owned()),
    ]
}

/// certmount's own issuer in this process, without plugin and volume.
struct Client {
    running: Running,
    issuer: IssuerRef,
}

impl Client {
    /// The ClusterIssuer `name` in the configuration of the plugin.
    fn start(stage: &Stage, name: &str) -> Result<Self> {
        let cluster = Cluster {
            domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            node_name: NODE.to_owned(),
        };
        let state_dir = Some(stage.state());
        let surroundings = Surroundings { state_dir, ..Surroundings::new(Clock::system(), NODE) };
        let running = config::start(&stage.config(), cluster, surroundings)?;
        let issuer = IssuerRef {
            group: "certmount.dev".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            name: name.to_owned(),
        };
        Ok(Self { running, issuer })
    }

    /// How long it takes to have a certificate for the DNS name `name`, with its key and request.
    async fn issue(&self, name: &str) -> Result<Duration> {
        let entry =
            self.running.issuers.get(&self.issuer, NAMESPACE).context("it is configured")?;
        let issuer = entry.issuer.map_err(|reason| anyhow!("{reason}"))?;
        let pod = PodRef {
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
            uid: "uid".to_owned(),
            service_account: "default".to_owned(),
        };
        let spec = CertificateSpec {
            issuer: self.issuer.clone(),
            template: template(name)?,
            duration: Duration::from_secs(86_400),
            key_algorithm: KeyAlgorithm::EcdsaP256,
            renew_before: None,
            reuse_private_key: false,
        };
        let began = Instant::now();
        let key = PrivateKey::generate(spec.key_algorithm)?;
        let request = CertificationRequest::new(&spec.template, &key)?;
        let issued = issuer
            .issue(Order {
                requester: Requester::Volume {
                    id: &VolumeId::of_inline_volume("uid", name),
                    pod: &pod,
                },
                spec: &spec,
                request: &request,
                annotations: &BTreeMap::new(),
                key: &key,
                tokens: &PodTokens::default(),
                warnings: &Warnings::default(),
                previous: None,
                handle: &NotKept,
                issuers: &self.running.issuers,
            })
            .await?;
        let took = began.elapsed();
        let leaf = issued.chain.iter().any(|it| it.public_key_info() == key.public_key_info());
        ensure!(leaf, "it is for another key");
        Ok(took)
    }
}

/// Nothing goes on after the process.
#[derive(Debug)]
struct NotKept;

impl HandleStore for NotKept {
    fn load(&self) -> Option<String> {
        None
    }

    fn save(&self, _handle: &str) -> io::Result<()> {
        Ok(())
    }
}

/// The DNS name `name`, and as Venafi wants it a subject.
fn template(name: &str) -> Result<Template> {
    let mut subject = DistinguishedName::default();
    subject.push("CN", name)?;
    Ok(Template { subject, subject_alt_names: vec![GeneralName::dns(name)?], ..floor::template()? })
}
