//! Counters in the text format of Prometheus, version 0.0.4.
//!
//! A counter is called as the field of the struct, with `_total` behind it; a gauge as the field. The format wants the lines
//! of one metric together, so one text holds the metrics of one handle.

use std::fmt::Write as _;

use super::{ReaderMetrics, WriterMetrics};
use crate::error::{Error, Result};

use Kind::{Counter, Gauge};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only grows while the process lives.
    Counter,
    Gauge,
}

/// Name, kind, help, value.
type Metric = (&'static str, Kind, &'static str, u64);

/// The metrics of a writer. `labels` is empty, or what stands between the braces: `pipe="events",host="a"`.
pub(crate) fn writer(metrics: &WriterMetrics, is_connected: bool, labels: &str) -> Result<String> {
    // Without `..`: a field that is added to the struct is added here too.
    let WriterMetrics {
        sent,
        dropped,
        failed,
        queue_depth,
        queue_bytes,
        sent_bytes,
        retried,
        abandoned,
        suspected_lost,
        connections,
        connect_failures,
        acknowledged,
        redelivered,
        ring_bytes,
    } = *metrics;
    let lines = [
        ("sent", Counter, "Messages that the kernel has taken whole.", sent),
        ("dropped", Counter, "Messages refused because the queue was full.", dropped),
        ("failed", Counter, "Failed attempts to send a message.", failed),
        ("queue_depth", Gauge, "Messages accepted and neither sent nor abandoned.", queue_depth),
        ("queue_bytes", Gauge, "Payload bytes of the messages in queue_depth.", queue_bytes),
        ("sent_bytes", Counter, "Payload bytes of the messages in sent.", sent_bytes),
        ("retried", Counter, "Attempts to send a failed message again.", retried),
        ("abandoned", Counter, "Messages accepted and then given up.", abandoned),
        ("suspected_lost", Counter, "Messages sent that the reader may not have read: an upper bound.", suspected_lost),
        ("connections", Counter, "Connections made.", connections),
        ("connect_failures", Counter, "Connects that failed.", connect_failures),
        ("acknowledged", Counter, "Messages sent that a reader of this library has handled.", acknowledged),
        ("redelivered", Counter, "Messages sent again after the end of a reader.", redelivered),
        ("ring_bytes", Counter, "Payload sent through memory shared with the reader.", ring_bytes),
        ("connected", Gauge, "1 while there is a connection, otherwise 0.", u64::from(is_connected)),
    ];
    text("udsipc_writer", &lines, labels)
}

/// The metrics of a reader. `labels` as for [`writer`].
pub(crate) fn reader(metrics: &ReaderMetrics, labels: &str) -> Result<String> {
    let ReaderMetrics {
        received,
        connections,
        errors,
        active_connections,
        received_bytes,
        accept_errors,
        idle_closed,
        refused,
        relistened,
    } = *metrics;
    let lines = [
        ("received", Counter, "Messages that the callback has handled.", received),
        ("connections", Counter, "Connections served.", connections),
        ("errors", Counter, "Malformed, too large or cut messages, and failed callbacks.", errors),
        ("active_connections", Gauge, "Connections open now.", active_connections),
        ("received_bytes", Counter, "Payload bytes of the messages in received.", received_bytes),
        ("accept_errors", Counter, "Failed attempts to accept a connection.", accept_errors),
        ("idle_closed", Counter, "Connections closed for inactivity.", idle_closed),
        ("refused", Counter, "Connections closed unread: not allowed, or above max_connections.", refused),
        ("relistened", Counter, "Times that a removed socket file was put back.", relistened),
    ];
    text("udsipc_reader", &lines, labels)
}

fn text(prefix: &str, metrics: &[Metric], labels: &str) -> Result<String> {
    check_labels(labels)?;
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let mut text = String::with_capacity(metrics.len() * 200);
    for &(name, kind, help, value) in metrics {
        let (suffix, kind) = match kind {
            Counter => ("_total", "counter"),
            Gauge => ("", "gauge"),
        };
        let name = format!("{prefix}_{name}{suffix}");
        // Infallible for a String.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{braces} {value}");
    }
    Ok(text)
}

/// Refuses labels with which the text would not parse: `name="value"` pairs with a comma between, `\\`, `\"` and `\n` in
/// values, and no name twice.
fn check_labels(labels: &str) -> Result<()> {
    let mut names = Vec::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, behind) = pair(rest).map_err(|reason| {
            Error::InvalidArgument(format!(
                "labels at byte {}: {reason}; expected name=\"value\" pairs with a comma between",
                labels.len() - rest.len()
            ))
        })?;
        if names.contains(&name) {
            return Err(Error::InvalidArgument(format!("labels: the name {name} stands there twice")));
        }
        names.push(name);
        rest = match behind.strip_prefix(',') {
            Some("") => return Err(Error::InvalidArgument("labels end in a comma".into())),
            Some(next) => next,
            None if behind.is_empty() => behind,
            None => return Err(Error::InvalidArgument(format!("labels: no comma before {behind:?}"))),
        };
    }
    Ok(())
}

/// The name of the first pair, and what stands behind the pair.
fn pair(labels: &str) -> std::result::Result<(&str, &str), &'static str> {
    let (name, value) = labels.split_once("=\"").ok_or("there is no =\"")?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(is_word) || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return Err("a name has letters, digits and _ alone, and does not begin with a digit");
    }
    if name.starts_with("__") {
        return Err("names that begin with __ are reserved by Prometheus");
    }
    let mut chars = value.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((name, &value[at + 1..])),
            '\n' => return Err("a line break in a value is written \\n"),
            '\\' if !matches!(chars.next(), Some((_, '\\' | '"' | 'n'))) => {
                return Err("a backslash in a value is written \\\\");
            }
            _ => {}
        }
    }
    Err("a value has no quote at its end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_metric_is_help_type_and_value() {
        let metrics = WriterMetrics { sent: 12, queue_depth: u64::MAX, ..WriterMetrics::default() };
        let text = writer(&metrics, true, r#"pipe="events",note="a \"b\"""#).expect("good labels");
        let sent = "# HELP udsipc_writer_sent_total Messages that the kernel has taken whole.\n\
                    # TYPE udsipc_writer_sent_total counter\n\
                    udsipc_writer_sent_total{pipe=\"events\",note=\"a \\\"b\\\"\"} 12\n";
        assert!(text.starts_with(sent), "{text}");
        assert!(
            text.contains("\nudsipc_writer_queue_depth{pipe=\"events\",note=\"a \\\"b\\\"\"} 18446744073709551615\n")
        );
        assert!(text.ends_with("} 1\n"), "{text}");
        assert_eq!(text.lines().count(), 3 * 15);
    }

    #[test]
    fn without_labels_there_are_no_braces() {
        let text = reader(&ReaderMetrics { received: 3, ..ReaderMetrics::default() }, "").expect("no labels");
        assert!(text.contains("\nudsipc_reader_received_total 3\n"), "{text}");
        assert!(!text.contains('{'), "{text}");
        assert_eq!(text.lines().count(), 3 * 9);
    }

    #[test]
    fn labels_that_do_not_parse_are_refused() {
        for bad in [
            "pipe",
            "pipe=events",
            "=\"x\"",
            "1a=\"x\"",
            "pi-pe=\"x\"",
            "__name__=\"x\"",
            "a=\"x",
            "a=\"x\\\"",
            "a=\"\\t\"",
            "a=\"x\ny\"",
            "a=\"x\",",
            ",a=\"x\"",
            "a=\"x\"b=\"y\"",
            "a=\"x\" ",
            "a=\"x\",a=\"y\"",
            "{a=\"x\"}",
        ] {
            let refused = reader(&ReaderMetrics::default(), bad);
            assert!(
                matches!(&refused, Err(Error::InvalidArgument(text)) if text.contains("labels")),
                "{bad}: {refused:?}"
            );
        }
        for good in ["", "a=\"\"", "a=\"x,y=\\\\\",_b9=\"} ä\""] {
            assert!(reader(&ReaderMetrics::default(), good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_taken(labels in "[a_=\",\\\\n\n{} é]{0,24}") {
            let _ = reader(&ReaderMetrics::default(), &labels);
        }

        #[test]
        fn any_value_that_is_escaped_is_taken(value in ".{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels = format!("a=\"{escaped}\",b=\"\"");
            let text = reader(&ReaderMetrics::default(), &labels).expect("escaped");
            let line = format!("udsipc_reader_received_total{{{labels}}} 0");
            prop_assert!(text.contains(&line));
        }
    }
}
