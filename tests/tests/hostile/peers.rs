//! Other nodes that do not keep their part: a taker that never reads its pull, a giver that never sends.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placeholder_until_written() {}
