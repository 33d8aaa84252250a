//! What the Kubernetes API knows of a pod before kubelet makes its volumes.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use tokio::time::timeout;

use super::{Access, reason};

/// Why a pod's address is not known now. Another look may find it.
#[derive(Debug, thiserror::Error)]
pub enum PodIpError {
    /// The API server did not say; these are its words, or what kept it from answering.
    #[error("the Kubernetes API does not tell the pod's IP address: {0}")]
    Unanswered(String),
    /// Kubelet has not told the API server yet.
    #[error("the Kubernetes API does not know the pod's IP address yet: it is asked again")]
    NotYet,
    /// A pod of the same name was there before, or comes after.
    #[error("the Kubernetes API knows another pod of that name at present: it is asked again")]
    AnotherPod,
}

/// The API server answers within this, or never.
const PATIENCE: Duration = Duration::from_secs(10);

impl Access {
    /// The address of the pod, if it is of the host network: any other gets one only after its
    /// volumes are made, and what the API says before that is an old one. Takes the right to get
    /// pods.
    ///
    /// # Errors
    ///
    /// When it has to be asked again.
    pub async fn host_network_ip(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<IpAddr>, PodIpError> {
        // Untyped: a whole Pod takes more program to read than the rest of this driver's objects.
        let resource = ApiResource::erase::<Pod>(&());
        let pods = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        let pod = timeout(PATIENCE, pods.get(name)).await.map_err(|_| {
            PodIpError::Unanswered(format!("no answer in {} seconds", PATIENCE.as_secs()))
        })?;
        let pod = pod.map_err(|error| PodIpError::Unanswered(reason(&error)))?;
        if pod.metadata.uid.as_deref() != Some(uid) {
            return Err(PodIpError::AnotherPod);
        }
        if pod.data["spec"]["hostNetwork"] != true {
            return Ok(None);
        }
        let status = &pod.data["status"];
        // They are the same for such a pod, and kubelet knows its own first.
        let ips = ["podIP", "hostIP"].into_iter().filter_map(|field| status[field].as_str());
        let ip = ips.filter_map(|ip| ip.parse().ok()).next();
        ip.map(Some).ok_or(PodIpError::NotYet)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    #[tokio::test]
    async fn only_pods_of_the_host_network_have_an_address_before_their_volumes() {
        let api = FakeApi::default();
        let access = Access { client: api.client(), namespace: "certmount-system".to_owned() };
        let ask = || access.host_network_ip("shop", "web-0", "uid-1");
        assert!(matches!(ask().await, Err(PodIpError::Unanswered(_))));

        let pod = |host_network: bool, status| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "shop", "name": "web-0", "uid": "uid-1"},
                "spec": {"containers": [], "hostNetwork": host_network}, "status": status})
        };
        api.put("pods", pod(true, json!({})));
        assert!(matches!(ask().await, Err(PodIpError::NotYet)));
        api.put("pods", pod(true, json!({"hostIP": "10.0.0.7"})));
        assert_eq!(ask().await.unwrap(), Some([10, 0, 0, 7].into()));
        api.put("pods", pod(true, json!({"hostIP": "10.0.0.7", "podIP": "2001:db8::7"})));
        assert_eq!(ask().await.unwrap(), Some("2001:db8::7".parse().unwrap()));
        api.put("pods", pod(false, json!({"hostIP": "10.0.0.7", "podIP": "10.1.0.3"})));
        assert_eq!(ask().await.unwrap(), None, "it may be that of a sandbox that is gone");

        let other = access.host_network_ip("shop", "web-0", "uid-2").await;
        assert!(matches!(other, Err(PodIpError::AnotherPod)));
    }
}
