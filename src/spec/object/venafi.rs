//! `venafi`: the fields of cert-manager's issuer of that name, and custom fields.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{CaBundle, OBJECT_NAME, SecretKeyRef, ServerUrl, object_name};
use crate::spec::values::quoted;

/// The fields of `venafi`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VenafiSpec {
    /// Who is asked, for what of theirs, and as whom.
    pub service: VenafiService,
    /// What every certificate object says; a volume may say more, or something else.
    pub custom_fields: Vec<CustomField>,
}

/// Who is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VenafiService {
    /// `tpp`: a server of one's own.
    Tpp {
        /// The policy folder, with or without `\VED\Policy\` before it.
        zone: String,
        /// How to reach it.
        spec: TppSpec,
    },
    /// `cloud`: the service of the vendor.
    Cloud {
        /// The application, which is before the `\` of the zone.
        application: String,
        /// The alias that the issuing template has there.
        template: String,
        /// How to reach it.
        spec: CloudSpec,
    },
}

/// How to reach TPP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TppSpec {
    /// The server, without `vedsdk`.
    pub url: ServerUrl,
    /// The name of the Secret with `access-token`, or with `username`, `password` and perhaps
    /// `client-id`.
    pub credentials: String,
    /// Which certificates the server may show; `None`: those that the system trusts.
    pub ca_bundle: Option<CaBundle>,
}

/// How to reach the cloud.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CloudSpec {
    /// The server, without `v1`.
    pub url: ServerUrl,
    /// The API key, under `api-key` where it names no key.
    pub api_token: SecretKeyRef,
    /// Which certificates the server may show; `None`: those that the system trusts.
    pub ca_bundle: Option<CaBundle>,
}

/// One value of a custom field of TPP, as cert-manager writes it. A field of several values is
/// there once for each of them.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CustomField {
    /// The label of the field.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What it says.
    pub value: String,
    /// Plain, which it is anyway.
    #[serde(default, rename = "type")]
    #[schemars(with = "Option<String>", regex(pattern = "^Plain$"))]
    pub kind: CustomFieldType,
}

/// How the value of a [`CustomField`] is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum CustomFieldType {
    /// As it is.
    #[default]
    Plain,
}

impl VenafiSpec {
    /// The Secrets that it needs, by name.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let (credentials, ca_bundle) = match &self.service {
            VenafiService::Tpp { spec, .. } => (&spec.credentials, &spec.ca_bundle),
            VenafiService::Cloud { spec, .. } => (&spec.api_token.name, &spec.ca_bundle),
        };
        let ca_bundle = ca_bundle.as_ref().and_then(CaBundle::secret);
        [credentials].into_iter().chain(ca_bundle.map(|it| &it.name)).map(String::as_str)
    }
}

/// The policy folder or application, who is asked, and what it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.tpp) != has(self.cloud)",
    "message": "venafi needs one of tpp and cloud, which say who is asked",
}]))]
struct WrittenVenafi {
    /// Of TPP the policy folder, such as DevOps\shop; of the cloud the application and the alias of
    /// its issuing template, such as shop\default.
    #[schemars(length(min = 1))]
    zone: String,
    /// Certificate Manager, Self-Hosted, which was the Trust Protection Platform of Venafi.
    tpp: Option<WrittenTpp>,
    /// Certificate Manager, SaaS, which was Venafi Cloud.
    cloud: Option<WrittenCloud>,
    /// What the certificate objects of TPP say in custom fields. A volume says more, or something
    /// else, in its attribute venafi.cert-manager.io/custom-fields.
    #[serde(default)]
    custom_fields: Vec<CustomField>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.caBundle) || !has(self.caBundleSecretRef)",
    "message": "there are both caBundle and caBundleSecretRef: take one out",
}]))]
struct WrittenTpp {
    /// The address, such as https://tpp.example.com; vedsdk at its end makes no difference.
    url: String,
    /// A Secret with access-token; or with username and password, and perhaps client-id, which is
    /// cert-manager.io without it: in the issuer's namespace, for a ClusterIssuer in certmount's.
    credentials_ref: WrittenSecretRef,
    /// PEM certificates of the CAs that the server's certificate may come from, in base64. Without
    /// this and caBundleSecretRef, those that certmount's image trusts.
    ca_bundle: Option<String>,
    /// The same in a Secret; under ca.crt where there is no key.
    ca_bundle_secret_ref: Option<SecretKeyRef>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.caBundle) || !has(self.caBundleSecretRef)",
    "message": "there are both caBundle and caBundleSecretRef: take one out",
}]))]
struct WrittenCloud {
    /// The address, where it is not https://api.venafi.cloud.
    url: Option<String>,
    /// The API key in a Secret; under api-key where there is no key.
    api_token_secret_ref: SecretKeyRef,
    /// PEM certificates of the CAs that the server's certificate may come from, in base64. Without
    /// this and caBundleSecretRef, those that certmount's image trusts.
    ca_bundle: Option<String>,
    /// The same in a Secret; under ca.crt where there is no key.
    ca_bundle_secret_ref: Option<SecretKeyRef>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSecretRef {
    /// Its name.
    #[serde(deserialize_with = "object_name")]
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    name: String,
}

impl<'de> Deserialize<'de> for VenafiSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenVenafi::deserialize(deserializer)?;
        Self::check(written).map_err(D::Error::custom)
    }
}

impl VenafiSpec {
    fn check(written: WrittenVenafi) -> Result<Self, String> {
        let WrittenVenafi { zone, tpp, cloud, custom_fields } = written;
        if zone.trim().is_empty() || zone.contains(char::is_control) {
            return Err(format!("zone {} is no zone", quoted(&zone)));
        }
        let service = match (tpp, cloud) {
            (Some(tpp), None) => {
                let spec = TppSpec {
                    url: server_url(&tpp.url)?,
                    credentials: tpp.credentials_ref.name,
                    ca_bundle: CaBundle::read(tpp.ca_bundle.as_deref(), tpp.ca_bundle_secret_ref)?,
                };
                VenafiService::Tpp { zone, spec }
            }
            (None, Some(_)) if !custom_fields.is_empty() => {
                return Err("customFields are for tpp only: take them out".to_owned());
            }
            (None, Some(cloud)) => {
                let (application, template) = application_and_template(&zone)?;
                let spec = CloudSpec {
                    url: server_url(cloud.url.as_deref().unwrap_or(CLOUD_URL))?,
                    api_token: cloud.api_token_secret_ref,
                    ca_bundle: CaBundle::read(
                        cloud.ca_bundle.as_deref(),
                        cloud.ca_bundle_secret_ref,
                    )?,
                };
                VenafiService::Cloud { application, template, spec }
            }
            (Some(_), Some(_)) => {
                return Err("venafi has both tpp and cloud: make two issuers".to_owned());
            }
            (None, None) => {
                return Err("venafi does not say who is asked: write tpp or cloud".to_owned());
            }
        };
        Ok(Self { service, custom_fields })
    }
}

const CLOUD_URL: &str = "https://api.venafi.cloud";

fn application_and_template(zone: &str) -> Result<(String, String), String> {
    match zone.split('\\').collect::<Vec<_>>()[..] {
        [application, template] if !application.is_empty() && !template.is_empty() => {
            Ok((application.to_owned(), template.to_owned()))
        }
        _ => Err(format!(
            "zone {} is not one of the cloud: write the application, a \\ and the alias of its \
             issuing template",
            quoted(zone)
        )),
    }
}

/// Reads the address of a server as vcert does: what people write there is often without a scheme,
/// and often goes on to an API of the server.
fn server_url(text: &str) -> Result<ServerUrl, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let rest = rest.trim_end_matches('/');
    let rest = ["/vedsdk", "/v1"].iter().find_map(|api| rest.strip_suffix(api)).unwrap_or(rest);
    let url = ServerUrl::parse(&format!("{scheme}://{rest}"));
    url.map_err(|error| format!("url {error}"))
}

impl JsonSchema for VenafiSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VenafiSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenVenafi::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::yaml::Node;

    fn read(yaml: &str) -> Result<VenafiSpec, String> {
        Node::parse(yaml).and_then(|node| node.read()).map_err(|error| error.to_string())
    }

    fn tpp(yaml: &str) -> (String, TppSpec) {
        match read(yaml).unwrap().service {
            VenafiService::Tpp { zone, spec } => (zone, spec),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_is_pasted_from_cert_manager() {
        let (zone, spec) =
            tpp("zone: devops\\cert-manager\ntpp:\n  url: https://tpp.venafi.example/vedsdk\n  \
             credentialsRef: {name: tpp-secret}\n  caBundleSecretRef: {name: tpp-ca}\n");
        assert_eq!(zone, "devops\\cert-manager");
        assert_eq!(spec.url.to_string(), "https://tpp.venafi.example/");
        let service = VenafiService::Tpp { zone, spec };
        let spec = VenafiSpec { service, custom_fields: Vec::new() };
        assert_eq!(spec.secrets().collect::<Vec<_>>(), ["tpp-secret", "tpp-ca"]);

        let cloud = read(
            "zone: My Application\\My CIT\ncloud:\n  apiTokenSecretRef: {name: cloud, key: key}\n",
        );
        let VenafiService::Cloud { application, template, spec } = cloud.unwrap().service else {
            panic!("not the cloud")
        };
        assert_eq!((application.as_str(), template.as_str()), ("My Application", "My CIT"));
        assert_eq!(spec.url.to_string(), "https://api.venafi.cloud/");
        assert_eq!(spec.api_token.key.as_deref(), Some("key"));
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let url = |url: &str| {
            let (_, spec) =
                tpp(&format!("zone: z\ntpp: {{url: '{url}', credentialsRef: {{name: a}}}}"));
            spec.url.to_string()
        };
        for written in ["tpp.example", "https://TPP.example", "https://tpp.example/vedsdk/"] {
            assert_eq!(url(written), "https://tpp.example/");
        }
        assert_eq!(url("https://tpp.example:8443/a/vedsdk"), "https://tpp.example:8443/a");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let server = "credentialsRef: {name: a}";
        let api_key = "cloud: {apiTokenSecretRef: {name: a}}";
        for (yaml, said) in [
            (format!("{{zone: '', tpp: {{url: a, {server}}}}}"), "is no zone"),
            (format!("{{zone: z, tpp: {{url: 'http://a', {server}}}}}"), "is not https"),
            (format!("{{zone: z, tpp: {{url: 'https://', {server}}}}}"), "is not an address"),
            (format!("{{zone: z, tpp: {{url: 'https://a?b', {server}}}}}"), "take it out"),
            (format!("{{zone: z, tpp: {{url: 'https://u:sesame@a', {server}}}}}"), "into a Secret"),
            (format!("{{zone: z, tpp: {{url: a, caBundle: '-----', {server}}}}}"), "base64"),
            (
                format!(
                    "{{zone: z, tpp: {{url: a, caBundle: YQ==, caBundleSecretRef: {{name: a}}, {server}}}}}"
                ),
                "take one out",
            ),
            ("{zone: z, tpp: {url: a}}".to_owned(), "credentialsRef"),
            ("{zone: z}".to_owned(), "write tpp or cloud"),
            (format!("{{zone: 'a\\b', tpp: {{url: a, {server}}}, {api_key}}}"), "make two issuers"),
            (format!("{{zone: a, {api_key}}}"), "the alias of its issuing template"),
            (format!("{{zone: 'a\\b\\c', {api_key}}}"), "the alias of its issuing template"),
            (
                format!("{{zone: 'a\\b', customFields: [{{name: a, value: b}}], {api_key}}}"),
                "for tpp only",
            ),
            (
                format!(
                    "{{zone: a, customFields: [{{name: a, value: b, type: Origin}}], tpp: {{url: a, {server}}}}}"
                ),
                "Plain",
            ),
        ] {
            let error = read(&yaml).unwrap_err();
            assert!(error.contains(said), "{yaml}: {error}");
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
