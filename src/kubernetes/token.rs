//! Tokens of service accounts, for those who ask elsewhere as one of them.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use zeroize::Zeroizing;

use super::Access;

/// The API server makes none that lives shorter.
const LIFE_SECONDS: i64 = 600;

impl Access {
    /// A token of the service account `name` in `namespace` for `audiences`, which lives for ten
    /// minutes. It takes the right to create `serviceaccounts/token` of that name.
    ///
    /// # Errors
    ///
    /// What the API server has to say.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[String],
    ) -> Result<Zeroizing<String>, kube::Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec {
            audiences: audiences.to_vec(),
            expiration_seconds: Some(LIFE_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        Ok(Zeroizing::new(answer.status.map(|status| status.token).unwrap_or_default()))
    }
}
