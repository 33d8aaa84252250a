//! `certmount check --connect`: whether the CAs behind issuers would sign for us.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::join_all;

use super::NODE;
use crate::clock::Clock;
use crate::config::{self, Loaded, Problem, Severity};
use crate::error::with_causes;
use crate::issuer::{Issuer, Issuers, KubernetesIssuers};
use crate::kubernetes::Access;
use crate::spec::policy::Cluster;

/// What CAs are asked with.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectArgs {
    /// Ask the CA of each issuer whether it would sign: log in where it has a server
    #[arg(long)]
    connect: bool,

    /// The cluster of the issuers, by the current context of this file
    ///
    /// Secrets that are not in DIR are read there, service accounts are given tokens, and webhooks
    /// are asked. The file logs in with a token or a certificate, best as certmount's own service
    /// account.
    #[arg(long, value_name = "FILE", requires = "connect")]
    kubeconfig: Option<PathBuf>,

    /// certmount's namespace in that cluster, where ClusterIssuers have their Secrets
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "certmount-system",
        requires = "kubeconfig"
    )]
    driver_namespace: String,
}

/// A CA that takes longer to say whether it lets us in would hold up pods as well.
const PATIENCE: Duration = Duration::from_secs(30);

impl ConnectArgs {
    /// Reads the folder `dir`. If CAs are to be asked, what they say is among the problems.
    pub(super) fn load(self, dir: &Path, cluster: &Cluster) -> Result<Loaded> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let access = match &self.kubeconfig {
                Some(file) => {
                    let access = Access::in_file(file, self.driver_namespace).await;
                    Some(access.with_context(|| format!("cannot use {}", file.display()))?)
                }
                None => None,
            };
            let loaded = config::load(dir, cluster, &Clock::system(), access.clone()).await?;
            if !self.connect {
                return Ok(loaded);
            }
            let (_writer, mut issuers) = Issuers::channel(loaded.issuers.clone());
            if let Some(Access { client, namespace }) = &access {
                issuers = issuers.with_foreign(KubernetesIssuers::new(client, NODE, namespace));
            }
            Ok(with_answers(loaded, &issuers).await)
        })
    }
}

/// The same with what the CAs say.
async fn with_answers(mut loaded: Loaded, all: &Issuers) -> Loaded {
    let places = &loaded.places;
    let ready = loaded.issuers.issuers.iter().filter_map(|(key, entry)| {
        let issuer = entry.issuer.as_ref().ok()?;
        Some(async move {
            Some(Problem {
                message: problem(issuer.as_ref(), all).await?,
                place: places.get(key).cloned(),
                object: Some(key.to_string()),
                severity: Severity::Error,
            })
        })
    });
    let problems = join_all(ready).await;
    loaded.problems.extend(problems.into_iter().flatten());
    loaded
}

async fn problem(issuer: &dyn Issuer, all: &Issuers) -> Option<String> {
    let probed = tokio::time::timeout(PATIENCE, issuer.probe(all)).await;
    issuer.close().await;
    match probed {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_causes(&error)),
        Err(_) => Some(format!("its CA has not answered in {} s", PATIENCE.as_secs())),
    }
}
