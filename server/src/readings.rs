//! [`Reading`]: a metric that is read when it is scraped, and how it is written out. What process-wide ones there are.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// A gauge or counter that is read when it is scraped.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Name without the `softstore_` before it.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// What it measures in.
    pub unit: Option<Unit>,
    /// Whether it only grows.
    pub is_counter: bool,
    /// Its value.
    pub value: u64,
}

/// Writes readings as metrics.
///
/// # Errors
/// If the encoder's buffer refuses.
pub(crate) fn encode_readings(
    readings: &[Reading],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    for reading in readings {
        let name = format!("softstore_{}", reading.name);
        if reading.is_counter {
            let metric = ConstCounter::new(reading.value);
            metric.encode(encoder.encode_descriptor(
                &name,
                reading.help,
                reading.unit.as_ref(),
                metric.metric_type(),
            )?)?;
        } else {
            let metric = ConstGauge::new(i64::try_from(reading.value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(
                &name,
                reading.help,
                reading.unit.as_ref(),
                metric.metric_type(),
            )?)?;
        }
    }
    Ok(())
}

/// Writes one gauge for each value of a label.
///
/// # Errors
/// If the encoder's buffer refuses.
pub(crate) fn encode_labelled(
    name: &str,
    help: &str,
    label: &str,
    values: &[(&'static str, u64)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for &(value, count) in values {
        let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        gauge.encode(metric.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

/// What this process counts beside its node or Assigner: lines of its log that were lost.
pub(crate) fn of_process() -> [Reading; 1] {
    [Reading {
        name: "log_lines_lost",
        help: "Log lines that were lost: nobody read them, they could not be written, or one kind came too often",
        unit: None,
        is_counter: true,
        value: crate::log_queue::lines_lost(),
    }]
}
