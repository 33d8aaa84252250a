//! The node's own object.

use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// Takes the taints with this key from the node, if there are any; answers whether there were.
///
/// # Errors
///
/// When the API server refuses, or when the node changed meanwhile: try again.
pub async fn remove_taint(client: &Client, node: &str, key: &str) -> Result<bool, kube::Error> {
    // Untyped: a whole Node takes more program to read than the rest of this driver's objects.
    let nodes = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let object = nodes.get(node).await?;
    let taints = object.data["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice);
    let kept: Vec<_> = taints.iter().filter(|taint| taint["key"] != key).collect();
    if kept.len() == taints.len() {
        return Ok(false);
    }
    // The whole list is replaced, so nobody may have added to it since.
    let change = json!({
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "spec": {"taints": kept},
    });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::FakeApi;

    #[tokio::test]
    async fn only_the_taint_of_that_key_goes() {
        let api = FakeApi::default();
        let taint = |key| json!({"key": key, "effect": "NoSchedule"});
        let node = json!({"metadata": {"name": "node1"},
            "spec": {"taints": [taint("other"), taint("not-ready")]}});
        api.put("nodes", node);
        assert!(remove_taint(&api.client(), "node1", "not-ready").await.unwrap());
        assert_eq!(api.objects("nodes")[0]["spec"]["taints"], json!([taint("other")]));
        assert!(!remove_taint(&api.client(), "node1", "not-ready").await.unwrap());
        assert_eq!(api.calls(), ["GET nodes", "PATCH nodes", "GET nodes"]);
    }
}
