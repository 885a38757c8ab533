//! Cluster tests. `embedded`: whole clusters in this process, over real sockets.

mod embedded;
