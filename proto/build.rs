//! Compiles the .proto files in pure Rust: no protoc is needed on the building machine.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["cache", "transfer", "assigner", "assignment"].map(|name| format!("softstore/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("softstore.v1.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".")
        // Rare, and large beside the rest of a reply, of which a batch holds hundreds.
        .boxed(".softstore.v1.Reply.moved")
        // Written by hand: see `src/batch`.
        .extern_path(".softstore.v1.OpBatch", "crate::batch::OpBatch")
        .extern_path(".softstore.v1.ReplyBatch", "crate::batch::ReplyBatch")
        .compile_fds(descriptors)?;
    Ok(())
}
