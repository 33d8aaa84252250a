//! csi-sanity, the conformance tests of Kubernetes for CSI drivers, against the real driver.
//!
//! csi-sanity makes the volumes for its Node tests through a Controller service, which certmount
//! has no use for. So a small one stands in front: it answers for the controller, and passes
//! everything else on to the driver. It changes two things in passing, for csi-sanity does not say
//! them and kubelet does: volumes are read-only, and the target path ends with `mount`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use certmount::csi::client::{InlineVolume, connect};
use certmount::csi::proto::csi::controller_server::{Controller, ControllerServer};
use certmount::csi::proto::csi::identity_client::IdentityClient;
use certmount::csi::proto::csi::identity_server::{Identity, IdentityServer};
use certmount::csi::proto::csi::node_client::NodeClient;
use certmount::csi::proto::csi::node_server::{Node, NodeServer};
use certmount::csi::proto::csi::*;
use common::{Plugin, namespaced_async};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

#[test]
#[ignore = "needs csi-sanity; .ci/run installs it"]
fn csi_sanity() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let volume = InlineVolume::new(
            "default",
            "sanity",
            &[
                ("certmount.dev/issuer-name", "self-signed"),
                ("certmount.dev/issuer-kind", "ClusterIssuer"),
                ("certmount.dev/dns-names", "sanity.default.svc"),
            ],
        );
        let target = plugin.kubelet().target(&volume);
        let mount_folder = target.parent().unwrap();
        fs::create_dir_all(mount_folder.parent().unwrap()).unwrap();

        let parameters = plugin.path("parameters.yaml");
        let context = volume.context();
        fs::File::create(&parameters)
            .and_then(|file| Ok(serde_json::to_writer(file, &context)?))
            .unwrap();
        let socket = plugin.path("proxy.sock");
        let proxy =
            Proxy { driver: plugin.socket(), volume_id: volume.id(), target: target.clone() };
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(IdentityServer::new(proxy.clone()))
                .add_service(ControllerServer::new(proxy.clone()))
                .add_service(NodeServer::new(proxy))
                .serve_with_incoming(incoming),
        );

        let mut sanity = Command::new("csi-sanity");
        sanity
            .arg(format!("--csi.endpoint={}", socket.display()))
            .arg(format!("--csi.mountdir={}", mount_folder.display()))
            .arg(format!("--csi.stagingdir={}", plugin.path("staging").display()))
            .arg(format!("--csi.testvolumeparameters={}", parameters.display()))
            .args(["--ginkgo.skip=Controller Server", "--ginkgo.no-color", "--ginkgo.v"]);
        let run = tokio::task::block_in_place(|| sanity.output());
        let run = run.expect("csi-sanity is on the PATH");
        let output = String::from_utf8_lossy(&run.stdout);
        let summary = output.lines().find(|line| line.contains(" Passed | ")).unwrap_or_default();
        assert!(
            summary.contains(" 17 Passed | 0 Failed | "),
            "csi-sanity says {summary:?}:\n{output}\nThe driver says:\n{}",
            plugin.log()
        );
        assert_eq!(plugin.leftovers(), [] as [PathBuf; 0]);
    });
}

/// What stands in front of the driver.
#[derive(Clone)]
struct Proxy {
    driver: PathBuf,
    /// The one volume that there is.
    volume_id: String,
    /// Where kubelet would want it.
    target: PathBuf,
}

impl Proxy {
    async fn node(&self) -> Result<NodeClient<tonic::transport::Channel>, Status> {
        Ok(NodeClient::new(connect(&self.driver).await?))
    }

    async fn identity(&self) -> Result<IdentityClient<tonic::transport::Channel>, Status> {
        Ok(IdentityClient::new(connect(&self.driver).await?))
    }

    /// csi-sanity's own name for the target.
    fn alias(&self) -> PathBuf {
        self.target.with_file_name("target")
    }

    /// The path to tell the driver.
    fn path(&self, path: String) -> String {
        if Path::new(&path) == self.alias() {
            return self.target.to_string_lossy().into_owned();
        }
        path
    }
}

#[tonic::async_trait]
impl Identity for Proxy {
    async fn get_plugin_info(
        &self,
        request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        self.identity().await?.get_plugin_info(request).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        use plugin_capability::{Service, Type, service};
        let mut response = self.identity().await?.get_plugin_capabilities(request).await?;
        let service = Service { r#type: service::Type::ControllerService.into() };
        response
            .get_mut()
            .capabilities
            .push(PluginCapability { r#type: Some(Type::Service(service)) });
        Ok(response)
    }

    async fn probe(
        &self,
        request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        self.identity().await?.probe(request).await
    }
}

#[tonic::async_trait]
impl Controller for Proxy {
    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        use controller_service_capability::{Rpc, Type, rpc};
        let rpc = Rpc { r#type: rpc::Type::CreateDeleteVolume.into() };
        let capability = ControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) };
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }

    /// The volume of the pod, with the alias that leads csi-sanity to where it will be.
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        symlink(&self.target, self.alias())?;
        let volume = Volume {
            volume_id: self.volume_id.clone(),
            volume_context: request.into_inner().parameters,
            ..Default::default()
        };
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        _: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        fs::remove_file(self.alias())?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Proxy {
    async fn node_publish_volume(
        &self,
        mut request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let inner = request.get_mut();
        inner.readonly = true;
        inner.target_path = self.path(std::mem::take(&mut inner.target_path));
        self.node().await?.node_publish_volume(request).await
    }

    async fn node_unpublish_volume(
        &self,
        mut request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let inner = request.get_mut();
        inner.target_path = self.path(std::mem::take(&mut inner.target_path));
        self.node().await?.node_unpublish_volume(request).await
    }

    async fn node_get_volume_stats(
        &self,
        mut request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let inner = request.get_mut();
        inner.volume_path = self.path(std::mem::take(&mut inner.volume_path));
        self.node().await?.node_get_volume_stats(request).await
    }

    async fn node_get_capabilities(
        &self,
        request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.node().await?.node_get_capabilities(request).await
    }

    async fn node_get_info(
        &self,
        request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.node().await?.node_get_info(request).await
    }
}
