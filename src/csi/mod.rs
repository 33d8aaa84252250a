//! The gRPC surface: CSI Identity and Node, and kubelet plugin registration.
//!
//! Requests are parsed here into what the layers below take, errors leave as gRPC statuses (one
//! table, in `status.rs`), and nothing else happens. The only module that sees tonic and prost.

pub mod client;
mod deadline;
mod identity;
mod node;
pub mod proto;
mod registration;
mod request;
mod server;
mod status;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use identity::driver_name;
pub use registration::{Registration, RegistrationState};
pub use server::{BindError, Endpoint, EndpointError, Listener, ServeError};

use crate::kubernetes::Access;
use crate::renew::Renewer;
use crate::spec::request::NodeContext;
use identity::IdentityService;
use node::NodeService;
use proto::csi::identity_server::IdentityServer;
use proto::csi::node_server::NodeServer;

/// The CSI plugin.
#[derive(Debug)]
pub struct Plugin {
    /// Does the work.
    pub renewer: Renewer,
    /// The driver's name as [`driver_name`] takes it, and the node's, which is also its CSI id.
    pub node: NodeContext,
    /// Knows the addresses of pods, where there is a Kubernetes API.
    pub access: Option<Access>,
    /// What `Probe` answers.
    pub ready: watch::Receiver<bool>,
}

impl Plugin {
    /// Serves Identity and Node on `listener` until `shutdown`; ends less than 2 s after it, and
    /// takes the socket away. Publishes that wait for an issuer are answered `UNAVAILABLE` then.
    ///
    /// # Errors
    ///
    /// When the server itself fails.
    pub async fn serve(
        self,
        listener: Listener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { renewer, node, access, ready } = self;
        let identity = IdentityService { driver_name: node.driver_name.clone(), ready };
        let node = NodeService { renewer, node, access, shutdown: shutdown.clone() };
        let routes = Routes::new(IdentityServer::new(identity)).add_service(NodeServer::new(node));
        server::serve(listener, routes, shutdown).await
    }
}
