//! Calls in the name of others, who lend their tokens for it.

use hyper::header::{AUTHORIZATION, HeaderValue};
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{Access, AccessError, connect};

/// The Kubernetes API for whoever has a token. It has no identity of its own, so what it may do is
/// what the token's owner may. Cheap to clone; all calls share its connections.
#[derive(Clone)]
pub struct BearerClient(Client);

impl Access {
    /// The same API for whoever has a token for it.
    ///
    /// # Errors
    ///
    /// As for [`Access::find`].
    pub async fn for_bearers() -> Result<BearerClient, AccessError> {
        let mut config = super::config().await?;
        config.auth_info = AuthInfo::default();
        connect::client(config).map(BearerClient).map_err(AccessError::Client)
    }
}

impl BearerClient {
    /// A client that has no identity of its own.
    #[cfg(test)]
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Makes `object` in `namespace`, as the owner of `token`.
    ///
    /// # Errors
    ///
    /// What the API server says.
    pub async fn create<K>(
        &self,
        api: fn(Client, Option<&str>) -> Api<K>,
        namespace: Option<&str>,
        object: &K,
        token: &str,
    ) -> Result<K, kube::Error>
    where
        K: Resource + Serialize + DeserializeOwned,
    {
        let api = api(self.0.clone(), namespace);
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let mut request = Request::new(api.resource_url())
            .create(&PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        let bearer = Zeroizing::new(format!("Bearer {token}"));
        let mut bearer = HeaderValue::from_str(&bearer)
            .map_err(|_| kube::Error::Service("the token is not one that can be sent".into()))?;
        // So that nothing prints it.
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        self.0.request(request).await
    }
}

impl std::fmt::Debug for BearerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerClient")
    }
}
