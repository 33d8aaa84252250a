//! Runs a test inside namespaces of its own, so that it may mount, as root or not, and leaves
//! neither mounts nor processes behind, even when it is killed.
//!
//! ```ignore
//! #[test]
//! fn mounts_something() {
//!     namespaced(|| { /* mount away: the process is root of its own mount namespace */ });
//! }
//! ```

use std::process::Command;

/// Set for the copy of the test that runs inside.
const INSIDE: &str = "CERTMOUNT_IN_NAMESPACE";

/// Runs `body` inside namespaces of its own: the test binary is started again there, for this test
/// alone, and what stands around the call runs in both. Call it from the test's own thread, whose name is the test's.
///
/// # Panics
///
/// When the test fails inside, with its output; when the kernel forbids namespaces, with what to
/// do about it.
pub fn namespaced(body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names each test's thread after the test");
    // What the test leaves in it can be mounted on until the namespace is gone, so only then removed.
    let temporary = tempfile::tempdir().expect("there is room for temporary files");
    let output = Command::new(env!("CARGO_BIN_EXE_certmount"))
        .args(["in-namespace", "--"])
        .arg(std::env::current_exe().expect("the test binary has a path"))
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("TMPDIR", temporary.path())
        .output()
        .expect("the certmount binary runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A name that matches no test would pass otherwise, with nothing run.
    let ran = out.contains("test result: ok. 1 passed");
    assert!(
        output.status.success() && ran,
        "{test} failed inside its namespace ({}):\n{out}\n{err}",
        output.status
    );
}

/// [`namespaced`] for a body that needs a tokio runtime.
pub fn namespaced_async<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    namespaced(|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime starts")
            .block_on(body());
    });
}
