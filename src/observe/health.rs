//! Whether the driver lives and whether it is ready, for probes.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::sync::lock;

/// Everything that stands between the driver and readiness. Cheap to clone.
///
/// Ready means that no [`Gate`] is held: each start-up step holds one and drops it when done, and
/// shutting down holds one to the end.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Vec<(u64, String)>>>);

/// One reason not to be ready, until dropped.
#[derive(Debug)]
#[must_use = "readiness waits only while the gate is held"]
pub struct Gate {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Holds readiness back for `reason` until the gate is dropped.
    pub fn gate(&self, reason: impl Into<String>) -> Gate {
        let mut gates = self.lock();
        let id = gates.last().map_or(0, |(id, _)| id + 1);
        gates.push((id, reason.into()));
        Gate { readiness: self.clone(), id }
    }

    /// Why the driver is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        self.lock().iter().map(|(_, reason)| reason.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, String)>> {
        lock(&self.0)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.readiness.lock().retain(|(id, _)| *id != self.id);
    }
}

/// Whether the gRPC server behind `socket` answers: connects, opens HTTP/2 (RFC 9113 §3.4) and
/// waits for the server's settings.
///
/// This goes through the accept loop and the runtime as kubelet's calls do, and costs one
/// connection. The error says what to look at.
pub async fn answers(socket: &Path) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, greet(socket))
        .await
        .map_err(|_| format!("{} did not answer in {PATIENCE:?}", socket.display()))?
        .map_err(|error| format!("{} does not answer: {error}", socket.display()))
}

async fn greet(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(PREFACE).await?;
    let mut header = [0; FRAME_HEADER];
    stream.read_exact(&mut header).await?;
    if header[3] != SETTINGS {
        return Err(std::io::Error::other("it does not speak HTTP/2"));
    }
    Ok(())
}

/// Well below the shortest time that a probe is usually given.
const PATIENCE: Duration = Duration::from_millis(800);

/// The connection preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn ready_when_every_gate_is_dropped() {
        let readiness = Readiness::default();
        let adopting = readiness.gate("adopting volumes");
        let binding = readiness.gate("binding the socket");
        assert_eq!(readiness.reasons(), ["adopting volumes", "binding the socket"]);
        drop(adopting);
        assert_eq!(readiness.reasons(), ["binding the socket"]);
        let again = readiness.gate("registering");
        drop(binding);
        assert_eq!(readiness.reasons(), ["registering"]);
        drop(again);
        assert!(readiness.reasons().is_empty());
    }

    #[tokio::test]
    async fn a_missing_socket_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let error = answers(&folder.path().join("csi.sock")).await.unwrap_err();
        assert!(error.contains("csi.sock does not answer: No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_greets_answers() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("csi.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut preface = [0; PREFACE.len()];
            stream.read_exact(&mut preface).await.unwrap();
            assert_eq!(&preface, PREFACE);
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        });
        answers(&socket).await.unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn something_else_on_the_socket_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("csi.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let error = answers(&socket).await.unwrap_err();
        assert!(error.contains("does not speak HTTP/2"), "{error}");
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("csi.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = answers(&socket).await.unwrap_err();
        assert!(error.contains("did not answer in 800ms"), "{error}");
    }
}
