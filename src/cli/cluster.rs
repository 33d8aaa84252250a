//! What names in this cluster are made of, as flags of several commands.

use crate::spec::policy::Cluster;

/// The domains of the cluster.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// The cluster's DNS domain: what follows `.svc` in names that every pod may have
    #[arg(
        long,
        env = "CERTMOUNT_CLUSTER_DOMAIN",
        value_name = "DOMAIN",
        // What kubeadm and most others use.
        default_value = "cluster.local"
    )]
    cluster_domain: String,

    /// The SPIFFE trust domain of `spiffe://<domain>/ns/…/sa/…` [default: the cluster domain]
    #[arg(long, env = "CERTMOUNT_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
}

impl ClusterArgs {
    /// The cluster as the node `node_name` sees it.
    pub(super) fn on_node(self, node_name: &str) -> Cluster {
        let Self { cluster_domain, trust_domain } = self;
        Cluster {
            trust_domain: trust_domain.unwrap_or_else(|| cluster_domain.clone()),
            domain: cluster_domain,
            node_name: node_name.to_owned(),
        }
    }
}
