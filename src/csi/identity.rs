//! CSI Identity: who the plugin is, and whether it is ready.

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::proto::csi::identity_server::Identity;
use super::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse,
};

/// Checks a driver name: at most 63 letters, digits, `-`, `_` and `.`, with a letter at either end
/// (CSI specification, "GetPluginInfo").
///
/// # Errors
///
/// When it is not one; the text says what is wrong.
pub fn driver_name(text: &str) -> Result<String, String> {
    let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
    let bytes = text.as_bytes();
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if bytes.len() > 63 {
        Err(format!("a driver name has at most 63 characters, not {}", bytes.len()))
    } else if !letter(bytes.first()) || !letter(bytes.last()) {
        Err("a driver name starts and ends with a letter".to_owned())
    } else if !bytes.iter().all(inside) {
        Err("a driver name holds only ASCII letters, digits, '-', '_' and '.'".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// The Identity service.
#[derive(Debug)]
pub(super) struct IdentityService {
    pub(super) driver_name: String,
    pub(super) ready: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: [].into(),
        }))
    }

    /// None: there is a Node service and no Controller.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(*self.ready.borrow()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_names_are_those_of_the_specification() {
        for good in ["csi.certmount.dev", "csi.cert-manager.io", "a", "a_b"] {
            assert_eq!(driver_name(good).as_deref(), Ok(good));
        }
        let long = format!("a{}a", "b".repeat(62));
        for bad in ["", ".a", "a.", "1a", "a1", "a/b", "a b", "ä", "a\n", long.as_str()] {
            assert!(driver_name(bad).is_err(), "{bad:?}");
        }
    }
}
