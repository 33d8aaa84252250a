//! The connection to the API server, and who asks there.
//!
//! kube's own builder can log in as kubectl does, by other programs and by what clouds have come up
//! with, and links all of it: a tenth of this program. A driver has a token in a file; who runs one
//! by hand has a token or a certificate.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::ExposeSecret as _;
use tower::{BoxError, Service as _, ServiceBuilder, service_fn};
use zeroize::Zeroizing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch is silent for up to a minute between bookmarks, and ends after five.
const READ_TIMEOUT: Duration = Duration::from_secs(330);

/// A client as `config` says. Nothing is asked yet, and whatever fails later is not tried again:
/// whoever asks has a better plan for the next attempt.
///
/// # Errors
///
/// When `config` asks for what is not served here, or names what cannot be read.
pub(super) fn client(config: Config) -> Result<Client, BoxError> {
    let base = config.base_uri_layer();
    let namespace = config.default_namespace.clone();
    let token = Arc::new(Token::of(&config.auth_info)?);
    tls(&config)?;

    let config = Arc::new(config);
    let mut connector = TimeoutConnector::new(service_fn(move |uri| {
        let config = Arc::clone(&config);
        Box::pin(async move { connect(&config, uri).await })
    }));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    connector.set_reset_reader_on_write(true);
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);

    let service = ServiceBuilder::new()
        .layer(base)
        .filter(move |mut request: Request<Body>| {
            if let Some(bearer) = token.bearer()? {
                request.headers_mut().insert(AUTHORIZATION, bearer);
            }
            Ok::<_, BoxError>(request)
        })
        .service(http);
    Ok(Client::new(service, namespace))
}

/// A connection of its own. Its trust is read anew, for the cluster's CA may be replaced under a
/// driver that runs.
async fn connect(
    config: &Config,
    uri: Uri,
) -> Result<hyper_rustls::MaybeHttpsStream<hyper_util::rt::TokioIo<tokio::net::TcpStream>>, BoxError>
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_or_http();
    match &config.tls_server_name {
        Some(name) => {
            let name = ServerName::try_from(name.clone())?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
        None => builder,
    }
    .enable_http1()
    .wrap_connector(tcp)
    .call(uri)
    .await
}

fn tls(config: &Config) -> Result<ClientConfig, BoxError> {
    if config.accept_invalid_certs {
        return Err("insecure-skip-tls-verify is not for a driver that handles keys: \
                    name the cluster's certificate-authority"
            .into());
    }
    let mut roots = RootCertStore::empty();
    match (&config.root_cert_file, &config.root_cert) {
        (Some(file), _) => {
            for certificate in CertificateDer::pem_file_iter(file)? {
                roots.add(certificate?)?;
            }
        }
        (None, Some(certificates)) => {
            for certificate in certificates {
                roots.add(CertificateDer::from(certificate.clone()))?;
            }
        }
        (None, None) => return Err("no certificate-authority is named for the cluster".into()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match identity(&config.auth_info)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificate that a kubeconfig logs in with.
fn identity(who: &AuthInfo) -> Result<Option<Identity>, BoxError> {
    let certificate = content(who.client_certificate_data.as_deref(), &who.client_certificate)?;
    let key = who.client_key_data.as_ref().map(|key| key.expose_secret());
    let (Some(certificate), Some(key)) = (certificate, content(key, &who.client_key)?) else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>()?;
    Ok(Some((chain, PrivateKeyDer::from_pem_slice(&key)?)))
}

/// What a kubeconfig holds as Base64 or in a file.
fn content(
    data: Option<&str>,
    file: &Option<String>,
) -> Result<Option<Zeroizing<Vec<u8>>>, BoxError> {
    Ok(match (data, file) {
        (Some(data), _) => Some(Zeroizing::new(STANDARD.decode(data)?)),
        (None, Some(file)) => Some(Zeroizing::new(fs::read(file)?)),
        (None, None) => None,
    })
}

/// The token to ask with.
enum Token {
    None,
    Given(Zeroizing<String>),
    /// Kubelet replaces it every hour.
    InFile(String),
}

impl Token {
    fn of(who: &AuthInfo) -> Result<Self, BoxError> {
        if who.exec.is_some() || who.auth_provider.is_some() || who.username.is_some() {
            return Err("a user of the kubeconfig logs in with a token or a certificate here: \
                        exec, auth-provider and passwords are not served"
                .into());
        }
        Ok(match (&who.token, &who.token_file) {
            (Some(token), _) => Self::Given(Zeroizing::new(token.expose_secret().to_owned())),
            (None, Some(file)) => Self::InFile(file.clone()),
            (None, None) => Self::None,
        })
    }

    /// The value of the Authorization header (RFC 6750 §2.1).
    fn bearer(&self) -> Result<Option<HeaderValue>, BoxError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Given(token) => token.clone(),
            Self::InFile(file) => Zeroizing::new(
                fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
            ),
        };
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut bearer = HeaderValue::from_str(&bearer)?;
        bearer.set_sensitive(true);
        Ok(Some(bearer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_file_is_read_for_each_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let who = AuthInfo { token_file: Some(path.clone()), ..AuthInfo::default() };
        let token = Token::of(&who).unwrap();
        for name in ["first", "second"] {
            #[allow(clippy::disallowed_methods, reason = "what kubelet does")]
            fs::write(&path, format!("{name}\n")).unwrap();
            let bearer = token.bearer().unwrap().unwrap();
            assert_eq!(bearer.to_str().unwrap(), format!("Bearer {name}"));
            assert!(bearer.is_sensitive());
        }
        drop(file);
        assert!(token.bearer().unwrap_err().to_string().contains(&path));
    }

    #[test]
    fn what_is_not_served_is_said() {
        let who = AuthInfo { username: Some("admin".to_owned()), ..AuthInfo::default() };
        let error = Token::of(&who).err().unwrap();
        assert!(error.to_string().contains("with a token or a certificate"), "{error}");

        let mut config = Config::new(Uri::from_static("https://10.0.0.1"));
        assert!(tls(&config).unwrap_err().to_string().contains("certificate-authority"));
        config.accept_invalid_certs = true;
        assert!(tls(&config).unwrap_err().to_string().contains("insecure-skip-tls-verify"));
    }
}
