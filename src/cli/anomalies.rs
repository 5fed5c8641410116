//! What `run` and `check` take about anomalies.

use clap::Args;

use crate::{anomaly::Anomaly, config::Argument};

/// About anomalies.
#[derive(Args, Clone, Debug, Default)]
pub struct AnomalyArgs {
    /// Close a session in which this anomaly is found, such as bare-lf; may be given several times. docs/anomalies.md lists them.
    #[arg(long, value_name = "ID", value_parser = Argument::<Anomaly>::new(), help_heading = "Anomalies")]
    pub strict: Vec<Anomaly>,
    /// End with exit code 1 after the first session in which any anomaly is found.
    #[arg(long, help_heading = "Anomalies")]
    pub exit_on_anomaly: bool,
}
