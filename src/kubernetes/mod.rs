//! The way to the Kubernetes API: a client that does not wait for ever, and its errors as text.

mod bearer;
mod connect;
#[cfg(test)]
pub(crate) mod fake;
mod node;
mod pods;
mod secret;

use std::path::Path;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use tower::BoxError;
use zeroize::Zeroizing;

pub use self::bearer::BearerClient;
pub use self::node::remove_taint;
pub use self::pods::PodIpError;
pub use self::secret::{create_or_read_secret, read_secret};
use crate::error::{self, with_causes};

/// The Kubernetes API as this process may use it. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    /// Asks it.
    pub client: Client,
    /// The namespace of the driver itself.
    pub namespace: String,
}

/// Why there is no way to the Kubernetes API.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nothing says where it is.
    #[error(
        "the Kubernetes API is not to be found: run in a pod with the token of a service account, \
         or name a kubeconfig file in KUBECONFIG"
    )]
    Unknown(#[source] kube::config::InferConfigError),
    /// What says where it is cannot be used.
    #[error("the Kubernetes API cannot be used as configured")]
    Client(#[source] BoxError),
}

impl AccessError {
    fn unusable(error: kube::config::KubeconfigError) -> Self {
        Self::Client(error.into())
    }
}

impl Access {
    /// The API of the cluster that this process runs in, or that `KUBECONFIG` names. Asks nothing
    /// of it yet. The driver's namespace is that of its service account, unless `namespace` is one.
    ///
    /// # Errors
    ///
    /// When neither says where it is, or not in a form that can be used.
    pub async fn find(namespace: Option<String>) -> Result<Self, AccessError> {
        let config = config().await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Self::by(config, namespace)
    }

    /// The API of the current context of the kubeconfig `file`, for a driver in `namespace`. Asks
    /// nothing of it yet.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or says what cannot be used.
    pub async fn in_file(file: &Path, namespace: String) -> Result<Self, AccessError> {
        let kubeconfig = Kubeconfig::read_from(file).map_err(AccessError::unusable)?;
        let current = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &current).await;
        Self::by(config.map_err(AccessError::unusable)?, namespace)
    }

    fn by(config: Config, namespace: String) -> Result<Self, AccessError> {
        let client = connect::client(config).map_err(AccessError::Client)?;
        Ok(Self { client, namespace })
    }

    /// That of nobody: whatever is asked fails, and says `why`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn nowhere(why: &'static str) -> Self {
        let service = tower::service_fn(move |_: hyper::Request<kube::client::Body>| async move {
            Err::<hyper::Response<kube::client::Body>, BoxError>(why.into())
        });
        let namespace = String::new();
        Self { client: Client::new(service, namespace.clone()), namespace }
    }

    /// A fresh token of a service account, good for ten minutes or as long as the API server likes.
    /// It takes the right to create `serviceaccounts/token` of that name.
    ///
    /// # Errors
    ///
    /// What the API server says.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[String],
    ) -> Result<Zeroizing<String>, String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.to_vec(),
                expiration_seconds: Some(TOKEN_LIFE_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let status = answer.map_err(|error| reason(&error))?.status;
        let token = status.map(|status| Zeroizing::new(status.token));
        token.ok_or_else(|| "its answer holds none".to_owned())
    }
}

/// The API server makes none that lives shorter.
const TOKEN_LIFE_SECONDS: i64 = 600;

async fn config() -> Result<Config, AccessError> {
    Config::infer().await.map_err(AccessError::Unknown)
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// What went wrong, in the API server's own words where it has said any.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => excerpt(&status.message),
        error => excerpt(&with_causes(error)),
    }
}

/// Why a watch does not go on.
pub fn watch_reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => reason(error),
        watcher::Error::WatchError(status) => excerpt(&status.message),
        watcher::Error::NoResourceVersion => excerpt(&error.to_string()),
    }
}

/// What others wrote, on one line and no longer than people read.
pub fn excerpt(text: &str) -> String {
    error::excerpt(text, 400)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_server_s_own_words_are_told() {
        let status = Status::failure("secrets is forbidden", "Forbidden").with_code(403);
        let error = kube::Error::Api(status.boxed());
        assert_eq!(reason(&error), "secrets is forbidden");
        let error = watcher::Error::InitialListFailed(error);
        assert_eq!(watch_reason(&error), "secrets is forbidden");
    }
}
