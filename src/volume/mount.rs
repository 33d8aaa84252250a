//! Mounting: tmpfs and read-only bind mounts.
