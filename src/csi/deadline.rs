//! How long a caller waits for an answer.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// Kubelet waits for two minutes and gives up on a connection that is silent for longer.
const LONGEST: Duration = Duration::from_secs(110);

/// What is left for the answer's way back.
const MARGIN: Duration = Duration::from_secs(2);

/// When to answer at the latest: 2 s before the caller's own deadline (half of its time where it
/// has less than 4 s), and after 110 s in any case.
pub(super) fn of(metadata: &MetadataMap) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    let wait = timeout.map_or(LONGEST, |timeout| timeout - MARGIN.min(timeout / 2));
    Instant::now() + wait.min(LONGEST)
}

/// Reads a `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_before_the_caller_gives_up() {
        let table = [
            ("120S", 110_000),
            ("119999m", 110_000),
            ("60000000u", 58_000),
            ("1M", 58_000),
            ("3S", 1_500),
            ("99999999H", 110_000),
            ("500m", 250),
            // Not a timeout by the specification: as if there were none.
            ("", 110_000),
            ("S", 110_000),
            ("+5S", 110_000),
            ("123456789S", 110_000),
            ("5 S", 110_000),
            ("5s", 110_000),
        ];
        for (timeout, milliseconds) in table {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", timeout.parse().unwrap());
            let wait = of(&metadata) - Instant::now();
            assert_eq!(wait, Duration::from_millis(milliseconds), "{timeout:?}");
        }
        assert_eq!(of(&MetadataMap::new()) - Instant::now(), LONGEST);
        assert_eq!(parse("5ü"), None);
    }
}
