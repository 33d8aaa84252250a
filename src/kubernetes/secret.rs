//! Secrets that certmount reads or makes by itself.
//!
//! They are made by server-side apply, for Kubernetes looks at the name only there: the right to
//! `create` by POST is the right to make any Secret, and the right to `create` and `patch` one by name
//! is no more than it says.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use zeroize::Zeroizing;

use super::{Access, reason};

/// Makes the Secret `namespace/name` with `value` under `key`, unless there is one already.
/// Answers the value that is there then: of several that make it at once, all get the same.
///
/// # Errors
///
/// What stands in the way, in the API server's words, and what to do.
pub async fn create_or_read_secret(
    access: &Access,
    namespace: &str,
    name: &str,
    key: &str,
    value: &Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let secrets: Api<Secret> = Api::namespaced(access.client.clone(), namespace);
    let made = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "certmount".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(key.to_owned(), ByteString(value.to_vec()))])),
        ..Secret::default()
    };
    let cannot = |what: &str, error: &kube::Error| {
        format!(
            "Secret {namespace}/{name} cannot be {what}: {}; make it, or let certmount create, get \
             and patch it: in the chart, list it in issuers.acmeAccounts",
            reason(error)
        )
    };
    // Values of two managers conflict where they differ, so the first one stays.
    let manager = manager().ok_or("the node has no random numbers")?;
    match secrets.patch(name, &PatchParams::apply(&manager), &Patch::Apply(&made)).await {
        Ok(_) => return Ok(value.clone()),
        Err(kube::Error::Api(status)) if status.code == CONFLICT => {}
        Err(error) => return Err(cannot("made", &error)),
    }
    let there = secrets.get(name).await.map_err(|error| cannot("read", &error))?;
    let value = there.data.and_then(|mut data| data.remove(key));
    let value = value.map(|ByteString(value)| Zeroizing::new(value));
    value.ok_or_else(|| {
        format!("Secret {namespace}/{name} is there and has no {key}: add it, or delete the Secret")
    })
}

/// The values of the Secret `namespace/name`, by their keys; `None` where there is no such Secret.
///
/// # Errors
///
/// What stands in the way, in the API server's words.
pub async fn read_secret(
    access: &Access,
    namespace: &str,
    name: &str,
) -> Result<Option<BTreeMap<String, Zeroizing<Vec<u8>>>>, String> {
    let secrets: Api<Secret> = Api::namespaced(access.client.clone(), namespace);
    let secret = secrets
        .get_opt(name)
        .await
        .map_err(|error| format!("Secret {namespace}/{name} cannot be read: {}", reason(&error)))?;
    let values = |secret: Secret| {
        let values = secret.data.into_iter().flatten();
        values.map(|(key, ByteString(value))| (key, Zeroizing::new(value))).collect()
    };
    Ok(secret.map(values))
}

const CONFLICT: u16 = 409;

/// Whose the fields of the Secret are: another one with each attempt.
fn manager() -> Option<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(format!("certmount-{:016x}", u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    async fn keep(api: &FakeApi, value: &str) -> Result<String, String> {
        let access = Access { client: api.client(), namespace: "home".to_owned() };
        let value = Zeroizing::new(value.as_bytes().to_vec());
        let kept = create_or_read_secret(&access, "home", "account", "tls.key", &value).await?;
        Ok(String::from_utf8(kept.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_first_to_make_a_secret_decides_what_is_in_it() {
        let api = FakeApi::default();
        assert_eq!(keep(&api, "first").await.unwrap(), "first");
        assert_eq!(keep(&api, "second").await.unwrap(), "first");
        let secret = api.objects("secrets").remove(0);
        assert_eq!(secret["data"], json!({"tls.key": "Zmlyc3Q="}));
        assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "certmount");
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_said_with_what_to_do() {
        let api = FakeApi::default();
        for (call, what) in [("PATCH secrets", "made"), ("GET secrets", "read")] {
            api.refuse(call, 403, "secrets is forbidden");
            let error = keep(&api, "s3cret").await.unwrap_err();
            let said = format!("cannot be {what}: secrets is forbidden; make it, or let certmount");
            assert!(error.contains(&said), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
            api.relent();
            let labels = json!({"app.kubernetes.io/managed-by": "somebody"});
            api.put(
                "secrets",
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "home",
                    "name": "account", "labels": labels}, "data": {"other": ""}}),
            );
        }
        let error = keep(&api, "s3cret").await.unwrap_err();
        assert!(error.contains("has no tls.key: add it"), "{error}");
    }

    #[tokio::test]
    async fn a_secret_is_read_if_it_is_there() {
        let api = FakeApi::default();
        let access = Access { client: api.client(), namespace: "home".to_owned() };
        assert_eq!(read_secret(&access, "home", "account").await.unwrap(), None);
        keep(&api, "first").await.unwrap();
        let values = read_secret(&access, "home", "account").await.unwrap().unwrap();
        assert_eq!(values["tls.key"].as_slice(), b"first");
        api.refuse("GET secrets", 403, "secrets is forbidden");
        let error = read_secret(&access, "home", "account").await.unwrap_err();
        assert_eq!(error, "Secret home/account cannot be read: secrets is forbidden");
    }

    #[tokio::test]
    async fn a_secret_that_is_there_is_filled() {
        let api = FakeApi::default();
        api.put(
            "secrets",
            json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": "home", "name": "account"}, "data": {"other": ""}}),
        );
        assert_eq!(keep(&api, "first").await.unwrap(), "first");
        assert_eq!(api.objects("secrets")[0]["data"], json!({"other": "", "tls.key": "Zmlyc3Q="}));
    }
}
