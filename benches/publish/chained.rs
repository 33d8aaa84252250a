//! Leaves from an intermediate CA on the node, with the issuer above it gone.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::sleep;

use crate::plugin::{ISSUER, Plugin, Stage};
use crate::report::{Report, milliseconds, percentile};
use crate::{AT_ONCE, Sizes, publish, publish_in_rounds, unpublish_all, volume};

const CHAINED: &str = "bench-chained";

/// Beside the same volumes from the upstream itself, which signs with a key on the node as well.
pub(crate) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    let chained = [("certmount.dev/issuer-name", CHAINED)];
    let (direct, _) = publish_in_rounds(stage, sizes, &[]).await?;
    let config = stage.root().join("config");
    let object = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: {CHAINED}}}, \
         spec: {{chained: {{issuerRef: {{name: {ISSUER}}}}}}}}}"
    );
    let beside = stage.root().join("chained");
    write(&beside, &object)?;
    fs::rename(&beside, config.join("chained.yaml"))?;
    // Brings the intermediate.
    until(stage, "intermediate", &chained, true).await?;

    let aside = stage.root().join("aside");
    fs::create_dir(&aside)?;
    let upstream = [format!("{ISSUER}-secret.yaml"), format!("{ISSUER}-issuer.yaml")];
    for file in &upstream {
        fs::rename(config.join(file), aside.join(file))?;
    }
    until(stage, "stopped", &[], false).await?;
    let (rate, calls) = publish_in_rounds(stage, sizes, &chained).await?;
    for file in &upstream {
        fs::rename(aside.join(file), config.join(file))?;
    }
    fs::remove_file(config.join("chained.yaml"))?;
    fs::remove_dir(aside)?;

    report.target(
        &format!("chained, upstream stopped, {AT_ONCE} at once"),
        format!("{rate:.0} /s"),
        ">= 1000 /s",
        rate >= 1_000.0,
    );
    report.row("  ratio to the upstream itself", format!("{:.2} x", rate / direct));
    report.row("  p50", milliseconds(percentile(&calls, 50)));
    report.row("  p99", milliseconds(percentile(&calls, 99)));
    Ok(plugin)
}

/// Publishes until it works, or until it does not.
async fn until(stage: &Stage, prefix: &str, more: &[(&str, &str)], works: bool) -> Result<()> {
    for round in 0..1000 {
        let volume = volume(&format!("{prefix}-{round}"), more);
        let published = publish(&stage.kubelet, &volume).await;
        unpublish_all(stage, &[volume]).await?;
        if published.is_ok() == works {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!("the plugin has not taken up its configuration")
}

#[allow(clippy::disallowed_methods, reason = "the file is renamed when it is whole")]
fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).context("the configuration folder can be written")
}
