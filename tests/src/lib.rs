//! What the cluster tests share: clusters embedded in the test's process.

pub mod embedded;
