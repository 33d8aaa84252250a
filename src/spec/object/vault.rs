//! The fields of `vault`: HashiCorp Vault and OpenBao, named as in cert-manager's Issuer.

use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{CaBundle, OBJECT_NAME, SecretKeyRef, ServerUrl, object_name, values};
use crate::x509::GeneralName;

/// How a Vault or OpenBao server signs, and who we are for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultSpec {
    /// The server.
    pub server: ServerUrl,
    /// Where it signs.
    pub path: VaultPath,
    /// The namespace in the server, for those that have them.
    pub namespace: Option<String>,
    /// The DNS name in the server's certificate, where it is not that of its address.
    pub server_name: Option<String>,
    /// Which certificates the server may show; `None`: those that the system trusts.
    pub ca_bundle: Option<CaBundle>,
    /// The TLS client certificate that the server or a proxy before it wants, and its key.
    pub client_certificate: Option<(SecretKeyRef, SecretKeyRef)>,
    /// Who we are.
    pub auth: VaultAuth,
}

/// Where a server signs, without the leading `/v1/`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultPath {
    /// `<mount>/sign/<role>`; `None` where only CAs are signed.
    pub sign: Option<String>,
    /// `<mount>/root/sign-intermediate`, or that of one of the mount's issuers.
    pub sign_intermediate: String,
}

/// Who we are for the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VaultAuth {
    /// `tokenSecretRef`: a token that somebody else got.
    Token(SecretKeyRef),
    /// `appRole`.
    AppRole {
        /// `auth/<mount>`.
        mount: String,
        /// Not secret.
        role_id: String,
        /// The secret id.
        secret: SecretKeyRef,
    },
    /// `clientCertificate`: a TLS client certificate.
    ClientCertificate {
        /// `auth/<mount>`.
        mount: String,
        /// The Secret with `tls.crt` and `tls.key`.
        secret: String,
        /// The certificate's name in the server; without it the server looks for one that fits.
        name: Option<String>,
    },
    /// `kubernetes` and `jwt`: a token of a service account.
    ServiceAccount {
        /// `auth/<mount>`.
        mount: String,
        /// The role to log in to.
        role: String,
        /// Whose token.
        token: TokenSource,
    },
}

impl VaultAuth {
    /// The field that takes the Kubernetes API.
    pub(super) fn needs_kubernetes(&self) -> Option<&'static str> {
        match self {
            Self::ServiceAccount { token: TokenSource::ServiceAccount { .. }, .. } => {
                Some("serviceAccountRef")
            }
            _ => None,
        }
    }
}

/// Whose service account token proves who we are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenSource {
    /// `podIdentity`: that of the pod the certificate is for, for this audience; without one, the
    /// only one that kubelet hands over.
    Pod {
        /// As in the CSIDriver's tokenRequests.
        audience: Option<String>,
    },
    /// `secretRef`: one that does not change.
    Secret(SecretKeyRef),
    /// `serviceAccountRef`: a fresh one from the Kubernetes API.
    ServiceAccount {
        /// In the issuer's namespace, for a ClusterIssuer in certmount's.
        name: String,
        /// Beside that of the issuer itself.
        audiences: Vec<String>,
    },
}

impl VaultSpec {
    /// The Secrets that it needs, by name.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let bundle = self.ca_bundle.as_ref().and_then(CaBundle::secret);
        let pair = self.client_certificate.as_ref();
        let identity = match &self.auth {
            VaultAuth::Token(reference) | VaultAuth::AppRole { secret: reference, .. } => {
                Some(reference.name.as_str())
            }
            VaultAuth::ClientCertificate { secret, .. } => Some(secret.as_str()),
            VaultAuth::ServiceAccount { token, .. } => match token {
                TokenSource::Secret(reference) => Some(reference.name.as_str()),
                TokenSource::Pod { .. } | TokenSource::ServiceAccount { .. } => None,
            },
        };
        let references = bundle.into_iter().chain(pair.into_iter().flat_map(|(c, k)| [c, k]));
        references.map(|reference| reference.name.as_str()).chain(identity)
    }
}

impl VaultPath {
    /// Reads `<mount>/sign/<role>`, `<mount>/issuer/<ref>/sign/<role>`, `sign-verbatim` in place of
    /// `sign`, or `<mount>/root/sign-intermediate`.
    fn parse(text: &str) -> Result<Self, String> {
        let path = text.trim_matches('/');
        let path = path.strip_prefix("v1/").unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        if !segments.iter().all(|segment| is_segment(segment)) {
            return Err(format!("{} is not a path such as pki/sign/web", values::quoted(text)));
        }
        let expected = || {
            format!(
                "{} does not end with sign/<role>: certmount makes keys itself and has them signed",
                values::quoted(text)
            )
        };
        let (sign, before) = match segments.as_slice() {
            [before @ .., "sign-intermediate"] => (None, before),
            [before @ .., "sign" | "sign-verbatim", _] => (Some(path.to_owned()), before),
            [before @ .., "sign-verbatim"] => (Some(path.to_owned()), before),
            _ => return Err(expected()),
        };
        let issuer = match before {
            [] | ["root" | "cel"] => return Err(expected()),
            [mount @ .., "root" | "cel"] => format!("{}/root", mount.join("/")),
            [_, .., "issuer", _] => before.join("/"),
            mount => format!("{}/root", mount.join("/")),
        };
        Ok(Self { sign, sign_intermediate: format!("{issuer}/sign-intermediate") })
    }
}

/// What the names of mounts and roles are made of, so that nothing needs to be escaped.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~:@+".contains(c))
}

/// Reads the mount of an authentication method: `/v1/auth/kubernetes`, as cert-manager writes it.
fn auth_mount(field: &str, text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let path = path.strip_prefix("v1/").unwrap_or(path);
    match path.strip_prefix("auth/") {
        Some(mount) if mount.split('/').all(is_segment) => Ok(path.to_owned()),
        _ => Err(format!(
            "{field} {} is not the mount of an authentication method: write /v1/auth/<mount>",
            values::quoted(text)
        )),
    }
}

/// Where the server is, where it signs, and how certmount logs in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.caBundle) || !has(self.caBundleSecretRef)",
    "message": "there are both caBundle and caBundleSecretRef: take one out",
}, {
    "rule": "has(self.clientCertSecretRef) == has(self.clientKeySecretRef)",
    "message": "clientCertSecretRef and clientKeySecretRef go together",
}]))]
struct WrittenVault {
    /// The server's address, such as https://vault.example.com:8200. Plain http is for an agent on
    /// the node itself: http://127.0.0.1:8100.
    #[schemars(with = "String", regex(pattern = SERVER))]
    server: ServerUrl,
    /// Where it signs: <mount>/sign/<role>. A request for a CA goes to
    /// <mount>/root/sign-intermediate beside it.
    path: String,
    /// The namespace in the server, such as team-a: of Vault Enterprise and OpenBao.
    namespace: Option<String>,
    /// The DNS name in the server's certificate, where it is not that of its address.
    server_name: Option<String>,
    /// PEM certificates of the CAs that the server's certificate may come from, in base64. Without
    /// this and caBundleSecretRef, those that certmount's image trusts.
    ca_bundle: Option<String>,
    /// The same in a Secret; under ca.crt where there is no key.
    ca_bundle_secret_ref: Option<SecretKeyRef>,
    /// A TLS client certificate that the server or a proxy before it wants; under tls.crt where
    /// there is no key.
    client_cert_secret_ref: Option<SecretKeyRef>,
    /// Its private key; under tls.key where there is no key.
    client_key_secret_ref: Option<SecretKeyRef>,
    /// How certmount logs in, in one way.
    auth: WrittenAuth,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.tokenSecretRef), has(self.appRole), has(self.clientCertificate), has(self.kubernetes), has(self.jwt)].filter(given, given).size() == 1",
    "message": "say how to log in, in one way: tokenSecretRef, appRole, clientCertificate, kubernetes or jwt",
}]))]
struct WrittenAuth {
    /// A token that somebody else got; under token where there is no key. It is renewed while the
    /// server lets it, and never revoked.
    token_secret_ref: Option<SecretKeyRef>,
    /// AppRole. Every node logs in for itself, so the secret id must not be for one use.
    app_role: Option<WrittenAppRole>,
    /// A TLS client certificate.
    client_certificate: Option<WrittenClientCertificate>,
    /// A service account's token, which the server has Kubernetes look at.
    kubernetes: Option<WrittenServiceAccount>,
    /// A service account's token, which the server verifies by itself (JWT/OIDC).
    jwt: Option<WrittenServiceAccount>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenAppRole {
    /// The name of the mount below auth/; approle without it.
    path: Option<String>,
    /// The role id.
    role_id: String,
    /// The secret id; under secretId where there is no key.
    secret_ref: SecretKeyRef,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenClientCertificate {
    /// The mount; /v1/auth/cert without it.
    mount_path: Option<String>,
    /// A Secret with tls.crt and tls.key.
    #[serde(deserialize_with = "object_name")]
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    secret_name: String,
    /// The name of the certificate in the server; without it the server takes any that fits.
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.podIdentity), has(self.secretRef), has(self.serviceAccountRef)].filter(given, given).size() == 1",
    "message": "say whose token, in one way: podIdentity, serviceAccountRef or secretRef",
}]))]
struct WrittenServiceAccount {
    /// The mount; /v1/auth/kubernetes or /v1/auth/jwt without it.
    mount_path: Option<String>,
    /// The role to log in to.
    role: String,
    /// The token of the pod that the certificate is for, so that the server itself can say who may
    /// have which names. Needs tokenRequests in the CSIDriver.
    pod_identity: Option<WrittenPodIdentity>,
    /// A fresh token of a service account in the issuer's namespace, for a ClusterIssuer in
    /// certmount's; certmount needs the right to create its tokens.
    service_account_ref: Option<WrittenServiceAccountRef>,
    /// A token that does not change; under token where there is no key.
    secret_ref: Option<SecretKeyRef>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct WrittenPodIdentity {
    /// One of the audiences in the CSIDriver's tokenRequests, where it has several.
    audience: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenServiceAccountRef {
    /// The service account.
    #[serde(deserialize_with = "object_name")]
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    name: String,
    /// More audiences of the token, beside vault://<namespace>/<issuer>, for a ClusterIssuer
    /// vault://<issuer>.
    #[serde(default)]
    audiences: Vec<String>,
}

/// What the API server can tell of an address.
const SERVER: &str = "^https?://";

impl<'de> Deserialize<'de> for VaultSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenVault::deserialize(deserializer)?;
        Self::check(written).map_err(D::Error::custom)
    }
}

impl JsonSchema for VaultSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VaultSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenVault::json_schema(generator)
    }
}

impl VaultSpec {
    fn check(written: WrittenVault) -> Result<Self, String> {
        if let Some(namespace) = &written.namespace
            && !namespace.trim_matches('/').split('/').all(is_segment)
        {
            return Err(format!("namespace {} is not one", values::quoted(namespace)));
        }
        if let Some(name) = &written.server_name
            && (GeneralName::dns(name).is_err()
                || name.starts_with('*')
                || name.parse::<IpAddr>().is_ok())
        {
            return Err(format!("serverName {} is not a DNS name", values::quoted(name)));
        }
        let client_certificate =
            match (written.client_cert_secret_ref, written.client_key_secret_ref) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err("clientCertSecretRef and clientKeySecretRef go together".into()),
            };
        let auth = VaultAuth::check(written.auth)?;
        if client_certificate.is_some() && matches!(auth, VaultAuth::ClientCertificate { .. }) {
            return Err("auth.clientCertificate brings the certificate for TLS: take \
                        clientCertSecretRef and clientKeySecretRef out"
                .into());
        }
        Ok(Self {
            server: written.server,
            path: VaultPath::parse(&written.path).map_err(|error| format!("path {error}"))?,
            namespace: written.namespace.map(|it| it.trim_matches('/').to_owned()),
            server_name: written.server_name,
            ca_bundle: CaBundle::read(written.ca_bundle.as_deref(), written.ca_bundle_secret_ref)?,
            client_certificate,
            auth,
        })
    }
}

impl VaultAuth {
    fn check(written: WrittenAuth) -> Result<Self, String> {
        let WrittenAuth { token_secret_ref, app_role, client_certificate, kubernetes, jwt } =
            written;
        let mut ways = [
            token_secret_ref.map(|reference| ("tokenSecretRef", Ok(Self::Token(reference)))),
            app_role.map(|written| ("appRole", Self::app_role(written))),
            client_certificate.map(|it| ("clientCertificate", Self::client_certificate(it))),
            kubernetes.map(|it| ("kubernetes", Self::service_account(it, "auth/kubernetes"))),
            jwt.map(|written| ("jwt", Self::service_account(written, "auth/jwt"))),
        ]
        .into_iter()
        .flatten();
        match (ways.next(), ways.next()) {
            (Some((name, way)), None) => way.map_err(|error| format!("auth.{name}: {error}")),
            (Some((one, _)), Some((other, _))) => {
                Err(format!("auth has both {one} and {other}: take one out"))
            }
            (None, _) => Err("auth does not say how to log in: write tokenSecretRef, appRole, \
                              clientCertificate, kubernetes or jwt"
                .into()),
        }
    }

    fn app_role(written: WrittenAppRole) -> Result<Self, String> {
        let path = written.path.as_deref().unwrap_or("approle").trim_matches('/');
        let path = path.strip_prefix("v1/").unwrap_or(path);
        let path = path.strip_prefix("auth/").unwrap_or(path);
        Ok(Self::AppRole {
            mount: auth_mount("path", &format!("auth/{path}"))?,
            role_id: written.role_id,
            secret: written.secret_ref,
        })
    }

    fn client_certificate(written: WrittenClientCertificate) -> Result<Self, String> {
        Ok(Self::ClientCertificate {
            mount: auth_mount("mountPath", written.mount_path.as_deref().unwrap_or("auth/cert"))?,
            secret: written.secret_name,
            name: written.name,
        })
    }

    fn service_account(written: WrittenServiceAccount, mount: &str) -> Result<Self, String> {
        let WrittenServiceAccount {
            mount_path,
            role,
            pod_identity,
            service_account_ref,
            secret_ref,
        } = written;
        let token = match (pod_identity, service_account_ref, secret_ref) {
            (Some(pod), None, None) => TokenSource::Pod { audience: pod.audience },
            (None, Some(account), None) => {
                TokenSource::ServiceAccount { name: account.name, audiences: account.audiences }
            }
            (None, None, Some(reference)) => TokenSource::Secret(reference),
            _ => {
                return Err("say whose token, in one way: podIdentity, serviceAccountRef or \
                            secretRef"
                    .into());
            }
        };
        let mount = auth_mount("mountPath", mount_path.as_deref().unwrap_or(mount))?;
        Ok(Self::ServiceAccount { mount, role, token })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{IssuerMethod, Object, parse};
    use super::*;

    fn read(vault: &str) -> Result<VaultSpec, String> {
        let text = format!(
            "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: vault}}, \
             spec: {{vault: {vault}}}}}"
        );
        match parse(&text).remove(0).map_err(|error| error.message)?.object {
            Object::Issuer(issuer) => match issuer.spec.method {
                IssuerMethod::Vault(spec) => Ok(*spec),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn with_auth(auth: &str) -> Result<VaultAuth, String> {
        read(&format!("{{server: 'https://vault', path: pki/sign/web, auth: {auth}}}"))
            .map(|spec| spec.auth)
    }

    #[test]
    fn reads_what_cert_manager_s_users_paste() {
        let spec = read(
            "{server: 'https://vault.example.com:8200', path: pki_int/sign/example-dot-com, \
             namespace: team/a, serverName: vault.internal, caBundleSecretRef: {name: tls}, \
             clientCertSecretRef: {name: client, key: tls.crt}, clientKeySecretRef: {name: client}, \
             auth: {appRole: {path: approle, roleId: 291b9d21, secretRef: {name: vault, key: secretId}}}}",
        )
        .unwrap();
        assert_eq!(spec.server.to_string(), "https://vault.example.com:8200/");
        assert_eq!(spec.path.sign.as_deref(), Some("pki_int/sign/example-dot-com"));
        assert_eq!(spec.secrets().collect::<Vec<_>>(), ["tls", "client", "client", "vault"]);
        let VaultAuth::AppRole { mount, .. } = &spec.auth else { panic!("{spec:?}") };
        assert_eq!(mount, "auth/approle");

        let auth = with_auth(
            "{kubernetes: {role: my-app, mountPath: /v1/auth/k8s, serviceAccountRef: {name: vault-issuer, audiences: [extra]}}}",
        );
        assert_eq!(
            auth.unwrap(),
            VaultAuth::ServiceAccount {
                mount: "auth/k8s".to_owned(),
                role: "my-app".to_owned(),
                token: TokenSource::ServiceAccount {
                    name: "vault-issuer".to_owned(),
                    audiences: vec!["extra".to_owned()],
                },
            }
        );
        assert!(with_auth("{jwt: {role: a, podIdentity: {}}}").is_ok());
        assert!(with_auth("{clientCertificate: {secretName: me}}").is_ok());
    }

    #[test]
    fn knows_where_cas_are_signed() {
        for (path, sign, ca) in [
            ("pki/sign/web", Some("pki/sign/web"), "pki/root/sign-intermediate"),
            ("/v1/pki/sign/web/", Some("pki/sign/web"), "pki/root/sign-intermediate"),
            ("a/b/sign/web", Some("a/b/sign/web"), "a/b/root/sign-intermediate"),
            ("pki/sign-verbatim/web", Some("pki/sign-verbatim/web"), "pki/root/sign-intermediate"),
            (
                "pki/issuer/x/sign/web",
                Some("pki/issuer/x/sign/web"),
                "pki/issuer/x/sign-intermediate",
            ),
            ("pki/cel/sign/web", Some("pki/cel/sign/web"), "pki/root/sign-intermediate"),
            ("pki/root/sign-intermediate", None, "pki/root/sign-intermediate"),
            ("pki/issuer/x/sign-intermediate", None, "pki/issuer/x/sign-intermediate"),
        ] {
            let path = VaultPath::parse(path).unwrap();
            assert_eq!((path.sign.as_deref(), path.sign_intermediate.as_str()), (sign, ca));
        }
        for path in [
            "",
            "pki",
            "pki/issue/web",
            "sign/web",
            "pki/../sign/web",
            "pki/sign/a b",
            "pki/sign/a?b",
            "root/sign-intermediate",
        ] {
            assert!(VaultPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (auth, words) in [
            ("{}", "does not say how to log in"),
            (
                "{tokenSecretRef: {name: a}, jwt: {role: a, podIdentity: {}}}",
                "both tokenSecretRef and jwt",
            ),
            ("{kubernetes: {role: a}}", "auth.kubernetes: say whose token"),
            ("{kubernetes: {role: a, secretRef: {name: a}, podIdentity: {}}}", "say whose token"),
            (
                "{kubernetes: {role: a, podIdentity: {}, mountPath: kubernetes}}",
                "write /v1/auth/<mount>",
            ),
            (
                "{kubernetes: {role: a, podIdentity: {}, mountPath: /v1/sys/seal}}",
                "write /v1/auth/<mount>",
            ),
            (
                "{appRole: {path: a/../b, roleId: a, secretRef: {name: a}}}",
                "write /v1/auth/<mount>",
            ),
            ("{token: {name: a}}", "unknown field"),
        ] {
            let error = with_auth(auth).unwrap_err();
            assert!(error.contains(words), "{auth}: {error}");
        }
        let auth = "auth: {tokenSecretRef: {name: a}}";
        for (fields, words) in [
            ("server: 'http://vault', path: pki/sign/web", "is not https"),
            ("server: 'https://vault', path: pki/issue/web", "does not end with sign/<role>"),
            ("server: 'https://vault', path: pki/sign/web, serverName: 10.0.0.1", "serverName"),
            ("server: 'https://vault', path: pki/sign/web, namespace: 'a b'", "namespace"),
            ("server: 'https://vault', path: pki/sign/web, caBundle: AAAA", "caBundle"),
            (
                "server: 'https://vault', path: pki/sign/web, clientKeySecretRef: {name: a}",
                "go together",
            ),
        ] {
            let error = read(&format!("{{{fields}, {auth}}}")).unwrap_err();
            assert!(error.contains(words), "{fields}: {error}");
        }
    }
}
