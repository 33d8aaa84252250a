//! Leaves from an intermediate CA on the node, with the issuer above it gone.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::sleep;

use crate::Sizes;
use crate::load::{AT_ONCE, publish, publish_in_rounds, unpublish_all, volume};
use crate::plugin::{ISSUER, Plugin, Stage};
use crate::report::{Report, milliseconds, percentile, times};

const CHAINED: &str = "bench-chained";

/// Beside the same volumes from the upstream itself, which signs with a key on the node as well.
pub(crate) async fn measure(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let plugin = Plugin::start(stage).await?;
    let chained = [("certmount.dev/issuer-name", CHAINED)];
    let (direct, _) = publish_in_rounds(stage, sizes, &[]).await?;
    let config = stage.root().join("config");
    let object = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: {CHAINED}}}, \
         spec: {{chained: {{issuerRef: {{name: {ISSUER}}}}}}}}}"
    );
    stage.configure("chained.yaml", &object)?;
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
    report.row("  ratio to the upstream itself", times(rate / direct));
    report.row("  p50", milliseconds(percentile(&calls, 50)));
    report.row("  p99", milliseconds(percentile(&calls, 99)));
    plugin.stop().await
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
