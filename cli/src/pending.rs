//! Interim.
#![expect(missing_docs)]
pub(crate) struct S;
impl S {
    pub(crate) async fn start<C>(_: C) -> eyre::Result<Self> { eyre::bail!("not yet") }
    pub(crate) fn id(&self) -> &'static str { "x" }
    pub(crate) fn grpc_addr(&self) -> std::net::SocketAddr { ([127,0,0,1],1).into() }
    pub(crate) fn http_addr(&self) -> Option<std::net::SocketAddr> { None }
    pub(crate) fn shutdown(&self) {}
    pub(crate) async fn wait(&self) {}
    pub(crate) async fn drain(&self) {}
}
