//! The limit of open files, of which every connection takes one. Many systems start processes with 1,024, which is a
//! default for programs that use `select`, and allow far more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process' limit of open files as far as it may by itself.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit of open files");
    }
}
