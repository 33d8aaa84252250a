//! CSI Node: volumes on this node. Calls that are not here answer `UNIMPLEMENTED`.
//!
//! Calls only wait for work that tasks of the renewer do, so that a caller who goes away stops
//! nothing. Each failed call is logged once, here, without attributes or secrets.

use std::net::IpAddr;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::field::Empty;
use tracing::{Instrument as _, Span, trace_span};

use super::proto::csi::node_server::Node;
use super::proto::csi::node_service_capability::{Rpc, Type, rpc};
use super::proto::csi::volume_usage::Unit;
use super::proto::csi::*;
use super::{deadline, request, status};
use crate::kubernetes::Access;
use crate::renew::Renewer;
use crate::spec::request::{NodeContext, PublishRequest};
use crate::spec::volume::{PodRef, VolumeId};
use crate::trace::TARGET;
use crate::volume::Record;

/// The Node service.
#[derive(Debug)]
pub(super) struct NodeService {
    pub(super) renewer: Renewer,
    pub(super) node: NodeContext,
    pub(super) access: Option<Access>,
    /// Ends every wait.
    pub(super) shutdown: CancellationToken,
}

impl NodeService {
    async fn publish(
        &self,
        request: NodePublishVolumeRequest,
        deadline: Instant,
    ) -> Result<(), Status> {
        let reading = self.read(request).instrument(trace_span!(target: TARGET, "parse"));
        let (request, record) = reading.await?;
        let (volume, pod) = (request.volume.clone(), name_of(&request.pod));
        let warnings = request.warnings.clone();
        let publication = self
            .renewer
            .publish(request, record)
            .map_err(|error| status::of_publish_error(&error))?;
        // Kubelet asks again and again while a volume waits for its certificate.
        for warning in warnings.iter().filter(|_| publication.is_first()) {
            tracing::warn!(%volume, pod, warning, "volume attributes");
        }
        tokio::select! {
            biased;
            ready = publication.ready() => ready.map_err(|error| status::of_not_ready(&error)),
            () = tokio::time::sleep_until(deadline) => {
                let last_error = self.renewer.get(&volume).and_then(|status| status.last_error);
                Err(status::of_timeout(last_error.as_deref()))
            }
            () = self.shutdown.cancelled() => Err(status::of_shutdown()),
        }
    }

    /// Reads the request, with the pod's address where it makes a difference. A volume that is there
    /// needs no API server: it goes on with what was known when it was first published.
    async fn read(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<(PublishRequest, Record), Status> {
        let volume = VolumeId::try_from(request.volume_id.clone()).ok();
        if let Some(pod_ip) = volume.and_then(|volume| self.renewer.pod_ip(&volume)) {
            return request::publish(request, &self.node, pod_ip);
        }
        if let Some(pod) = request::names_pod_ip(&request)? {
            let pod_ip = self.pod_ip(&pod).await?;
            return request::publish(request, &self.node, pod_ip);
        }
        let (mut request, mut record) = request::publish(request, &self.node, None)?;
        if self.renewer.may_need_pod_ip(&request) {
            request.pod_ip = self.pod_ip(&request.pod).await?;
            record = record.with_pod_ip(request.pod_ip);
        }
        Ok((request, record))
    }

    /// The pod's address, if the Kubernetes API knows it.
    async fn pod_ip(&self, pod: &PodRef) -> Result<Option<IpAddr>, Status> {
        let Some(access) = &self.access else { return Ok(None) };
        let PodRef { namespace, name, uid, .. } = pod;
        let known = access.host_network_ip(namespace, name, uid).await;
        known.map_err(|error| status::of_pod_ip_error(&error))
    }

    async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        let Some((volume, target)) = request::unpublish(request)? else {
            return Ok(());
        };
        let removed = self.renewer.unpublish(&volume, &target).await;
        removed.map_err(|error| status::of_volume_error(&error))
    }

    fn stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        let NodeGetVolumeStatsRequest { volume_id, volume_path, .. } = request;
        request::required("volume_id", &volume_id)?;
        request::required("volume_path", &volume_path)?;
        let elsewhere = || Status::not_found("there is no such volume on this path");
        let volume = VolumeId::try_from(volume_id).map_err(|_| elsewhere())?;
        let path = self.renewer.get(&volume).ok_or_else(elsewhere)?.target_path;
        if path.as_path() != Path::new(&volume_path) {
            return Err(elsewhere());
        }
        let usage = statfs(path.as_path()).map_err(|_| elsewhere())?;
        if usage.filesystem_type() != TMPFS_MAGIC {
            return Err(elsewhere());
        }
        let unit = |unit: Unit, size: u64, total: u64, free: u64, available: u64| VolumeUsage {
            available: saturating(size, available),
            total: saturating(size, total),
            used: saturating(size, total.saturating_sub(free)),
            unit: unit.into(),
        };
        let block = u64::try_from(usage.block_size()).unwrap_or(0);
        let bytes =
            unit(Unit::Bytes, block, usage.blocks(), usage.blocks_free(), usage.blocks_available());
        let inodes = unit(Unit::Inodes, 1, usage.files(), usage.files_free(), usage.files_free());
        Ok(NodeGetVolumeStatsResponse { usage: vec![bytes, inodes] })
    }
}

/// `size` times `count`, or the most that the protocol can say.
fn saturating(size: u64, count: u64) -> i64 {
    i64::try_from(size.saturating_mul(count)).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        let span = span_of(&request);
        let request = request.into_inner();
        let call = Call::new("NodePublishVolume", &request.volume_id, named_pod(&request));
        let answer = self.publish(request, deadline).instrument(span.clone()).await;
        if let Err(status) = &answer {
            span.record("error", status.message());
        }
        call.answer(answer.map(|()| Default::default()))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let pod = self.pod_of(&request.volume_id);
        let call = Call::new("NodeUnpublishVolume", &request.volume_id, pod);
        call.answer(self.unpublish(request).await.map(|()| Default::default()))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let pod = self.pod_of(&request.volume_id);
        let call = Call::new("NodeGetVolumeStats", &request.volume_id, pod);
        call.answer(self.stats(request))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        let capabilities = [rpc::Type::VolumeMountGroup, rpc::Type::GetVolumeStats].map(capability);
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.node_name.clone(),
            ..Default::default()
        }))
    }
}

/// The span of a publish, below that of kubelet where it has one.
fn span_of(request: &Request<NodePublishVolumeRequest>) -> Span {
    let (metadata, publish) = (request.metadata(), request.get_ref());
    let said = |key: &str| publish.volume_context.get(key).map(String::as_str);
    trace_span!(
        target: TARGET,
        "csi.v1.Node/NodePublishVolume",
        otel.kind = "server",
        traceparent = metadata.get("traceparent").and_then(|value| value.to_str().ok()),
        rpc.system = "grpc",
        csi.volume.id = publish.volume_id.as_str(),
        k8s.namespace.name = said("csi.storage.k8s.io/pod.namespace"),
        k8s.pod.name = said("csi.storage.k8s.io/pod.name"),
        error = Empty,
    )
}

/// One call, for the log.
struct Call {
    method: &'static str,
    volume: String,
    pod: String,
}

impl Call {
    fn new(method: &'static str, volume: &str, pod: String) -> Self {
        Self { method, volume: volume.chars().take(LONGEST_NAME).collect(), pod }
    }

    fn answer<T>(self, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        if let Err(status) = &answer {
            let Self { method, volume, pod } = self;
            let (code, reason) = (status.code(), status.message());
            tracing::warn!(method, volume, pod, ?code, reason, "call failed");
        }
        answer.map(Response::new)
    }
}

/// Longer than any name of a namespace or pod, and than any volume id.
const LONGEST_NAME: usize = 253;

/// The pod that a publish request names, which need not be true.
fn named_pod(request: &NodePublishVolumeRequest) -> String {
    let name = |key| request.volume_context.get(key).map_or("", String::as_str);
    let (namespace, name) =
        (name("csi.storage.k8s.io/pod.namespace"), name("csi.storage.k8s.io/pod.name"));
    let short = |name: &str| name.chars().take(LONGEST_NAME).collect::<String>();
    format!("{}/{}", short(namespace), short(name))
}

fn name_of(pod: &PodRef) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

impl NodeService {
    /// The pod of a volume, empty for one that nobody knows.
    fn pod_of(&self, volume: &str) -> String {
        let volume = VolumeId::try_from(volume.to_owned()).ok();
        let status = volume.and_then(|volume| self.renewer.get(&volume));
        status.map_or_else(String::new, |status| name_of(&status.pod))
    }
}
