//! Where traces go: the flag, and the variables that all of OpenTelemetry shares.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::observe::{Sampler, TraceOptions};

/// Traces of publishes.
///
/// The hidden ones are those of the OpenTelemetry specification ("Environment Variable
/// Specification" and "Protocol Exporter"); empty ones count as not set.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traces")]
pub(super) struct TraceArgs {
    /// Send a trace of each publish and renewal to this OTLP collector; off without it
    ///
    /// Over HTTP, as JSON, to /v1/traces below the URL. OTEL_EXPORTER_OTLP_ENDPOINT and the other
    /// variables that OpenTelemetry's SDKs share are read too, and this goes before them.
    #[arg(long, env = "CERTMOUNT_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,

    /// The collector, where --otlp-endpoint is not given
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide = true)]
    otel_exporter_otlp_endpoint: Option<String>,

    /// The whole URL for spans, where the collector for them is another
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hide = true)]
    otel_exporter_otlp_traces_endpoint: Option<String>,

    /// Headers for the collector: key1=value1,key2=value2
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide = true, value_parser = secret)]
    otel_exporter_otlp_headers: Option<SecretString>,

    /// The same for spans only
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_HEADERS", hide = true, value_parser = secret)]
    otel_exporter_otlp_traces_headers: Option<SecretString>,

    /// A PEM file with the CA of the collector's certificate
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", hide = true)]
    otel_exporter_otlp_certificate: Option<PathBuf>,

    /// The same for spans only
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", hide = true)]
    otel_exporter_otlp_traces_certificate: Option<PathBuf>,

    /// The name of the service in traces
    #[arg(long, env = "OTEL_SERVICE_NAME", hide = true)]
    otel_service_name: Option<String>,

    /// none, to send no traces
    #[arg(long, env = "OTEL_TRACES_EXPORTER", hide = true)]
    otel_traces_exporter: Option<String>,

    /// Which traces are sent: always_on, traceidratio, parentbased_traceidratio and so on
    #[arg(long, env = "OTEL_TRACES_SAMPLER", hide = true)]
    otel_traces_sampler: Option<String>,

    /// How many of them, from 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", hide = true)]
    otel_traces_sampler_arg: Option<String>,

    /// true, to send no traces
    #[arg(long, env = "OTEL_SDK_DISABLED", hide = true)]
    otel_sdk_disabled: Option<String>,
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.into())
}

impl TraceArgs {
    /// Where traces of the driver on `node` go, if they go anywhere.
    pub(super) fn options(self, node: &str) -> Result<Option<TraceOptions>> {
        let is_off = given(self.otel_sdk_disabled)
            .is_some_and(|it| it.eq_ignore_ascii_case("true"))
            || given(self.otel_traces_exporter).is_some_and(|exporter| exporter == "none");
        let endpoint = match given(self.otlp_endpoint) {
            Some(base) => Some(below(&base).context("--otlp-endpoint")?),
            None if is_off => None,
            None => match given(self.otel_exporter_otlp_traces_endpoint) {
                Some(url) => Some(read(&url).context("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?),
                None => {
                    let base = given(self.otel_exporter_otlp_endpoint);
                    let url = base.map(|base| below(&base)).transpose();
                    url.context("OTEL_EXPORTER_OTLP_ENDPOINT")?
                }
            },
        };
        let Some(endpoint) = endpoint else { return Ok(None) };
        let certificate =
            self.otel_exporter_otlp_traces_certificate.or(self.otel_exporter_otlp_certificate);
        let certificate = certificate.filter(|path| !path.as_os_str().is_empty());
        let ca_bundle = certificate
            .map(|path| fs::read(&path).with_context(|| format!("cannot read {}", path.display())));
        let headers = self.otel_exporter_otlp_traces_headers.or(self.otel_exporter_otlp_headers);
        Ok(Some(TraceOptions {
            endpoint,
            headers: headers.map(|headers| pairs(headers.expose_secret())).unwrap_or_default(),
            ca_bundle: ca_bundle.transpose()?,
            sampler: sampler(
                given(self.otel_traces_sampler).as_deref(),
                given(self.otel_traces_sampler_arg).as_deref(),
            ),
            service: given(self.otel_service_name).unwrap_or_else(|| "certmount".to_owned()),
            node: node.to_owned(),
        }))
    }
}

fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// Where spans go at the collector whose URL is `base`.
fn below(base: &str) -> Result<Url> {
    read(&format!("{}/v1/traces", base.trim_end_matches('/')))
}

fn read(url: &str) -> Result<Url> {
    let read = url
        .parse()
        .ok()
        .filter(|url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host());
    read.with_context(|| {
        "this is no URL of an OTLP collector: write one such as http://collector.monitoring:4318"
    })
}

/// `key1=value1,key2=value2`, with percent-encoded values (W3C Baggage).
fn pairs(text: &str) -> Vec<(String, Zeroizing<String>)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy();
        Zeroizing::new(decoded.into_owned())
    };
    pairs.map(|(key, value)| (key.trim().to_owned(), decoded(value))).collect()
}

/// The sampler of that name; what is not known here is the default.
fn sampler(name: Option<&str>, argument: Option<&str>) -> Sampler {
    let ratio = argument.and_then(|text| text.parse().ok());
    let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or(1.0);
    let (parent_based, ratio) = match name.unwrap_or_default() {
        "always_on" => (false, 1.0),
        "always_off" => (false, 0.0),
        "traceidratio" => (false, ratio),
        "parentbased_always_off" => (true, 0.0),
        "parentbased_traceidratio" => (true, ratio),
        _ => (true, 1.0),
    };
    Sampler { parent_based, ratio }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        traces: TraceArgs,
    }

    fn options(args: &[&str]) -> Result<Option<TraceOptions>> {
        let args = ["certmount"].iter().chain(args);
        Command::try_parse_from(args).unwrap().traces.options("node-1")
    }

    fn endpoint(args: &[&str]) -> Option<String> {
        options(args).unwrap().map(|options| options.endpoint.to_string())
    }

    #[test]
    fn spans_go_where_the_specification_says() {
        assert_eq!(endpoint(&[]), None);
        let table = [
            ("--otlp-endpoint=http://c:4318", "http://c:4318/v1/traces"),
            ("--otlp-endpoint=https://c/otlp/", "https://c/otlp/v1/traces"),
            ("--otel-exporter-otlp-endpoint=http://c:4318", "http://c:4318/v1/traces"),
            ("--otel-exporter-otlp-traces-endpoint=http://c/other", "http://c/other"),
        ];
        for (argument, url) in table {
            assert_eq!(endpoint(&[argument]).as_deref(), Some(url));
        }
        let both = [table[2].0, table[3].0];
        assert_eq!(endpoint(&both).as_deref(), Some("http://c/other"));
        assert_eq!(endpoint(&["--otel-exporter-otlp-endpoint="]), None);
        for off in ["--otel-sdk-disabled=true", "--otel-traces-exporter=none"] {
            assert_eq!(endpoint(&[table[2].0, off]), None);
        }
        let error = options(&["--otlp-endpoint=collector:4317"]).unwrap_err();
        assert!(format!("{error:#}").contains("http://collector.monitoring:4318"), "{error:#}");
    }

    #[test]
    fn headers_are_read_and_not_printed() {
        let headers = "--otel-exporter-otlp-headers=authorization=Basic%20s3cret, x-scope = shop";
        let args = ["certmount", "--otlp-endpoint=http://c", headers];
        let command = Command::try_parse_from(args).unwrap();
        assert!(!format!("{command:?}").contains("s3cret"));
        let options = command.traces.options("node-1").unwrap().unwrap();
        assert!(!format!("{options:?}").contains("s3cret"));
        let headers: Vec<_> =
            options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("authorization", "Basic s3cret"), ("x-scope", "shop")]);
    }

    #[test]
    fn samplers_have_their_shared_names() {
        let is = |name, argument, parent_based, ratio| {
            assert_eq!(sampler(name, argument), Sampler { parent_based, ratio });
        };
        is(None, Some("0.5"), true, 1.0);
        is(Some("always_off"), None, false, 0.0);
        is(Some("traceidratio"), Some("0.25"), false, 0.25);
        is(Some("parentbased_traceidratio"), Some("many"), true, 1.0);
        is(Some("jaeger_remote"), None, true, 1.0);
    }
}
