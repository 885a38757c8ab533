//! `softstore assigner`.

use eyre::{Result, WrapErr};
use softstore_server::assigner::AssignerServer;
use tracing::info;

use crate::announce::{AssignerAnnouncement, print};
use crate::commands::node::ProcessArgs;
use crate::exit::Exit;
use crate::logging::{self, LogArgs};
use crate::open_files;
use crate::settings::assigner::AssignerSettings;
use crate::settings::file::{FileArgs, layered};
use crate::stop::Stop;

/// An Assigner's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore assigner
  softstore assigner --cluster prod --state-dir /var/lib/softstore --listen 10.0.0.5:7400 --insecure

One that is restarted learns what the cluster holds from the nodes, which serve on meanwhile. With --state-dir it remembers which cluster
that is; without, it waits 15 s from the first node's hello before it takes a cluster for new.
Run one at a time.

Exit codes:
  0  stopped by SIGTERM or SIGINT    2  error (stderr says what to do)")]
pub(crate) struct AssignerArgs {
    #[command(flatten)]
    settings: AssignerSettings,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// Runs until a signal.
pub(crate) async fn run(args: AssignerArgs) -> Result<Exit> {
    let config = layered(args.settings, &args.file, |file| file.assigner)?;
    config.validate()?;
    logging::start(&args.log)?;
    open_files::raise_limit();
    let mut stop = Stop::listen(args.process.exit_with_parent)?;
    let server = AssignerServer::start(config)
        .await
        .wrap_err("cannot start the Assigner")?;
    if args.process.announce {
        print(&AssignerAnnouncement {
            assigner: server.grpc_addr().to_string(),
            pid: std::process::id(),
            http: server
                .http_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
        })?;
    }
    let reason = stop.wanted().await;
    info!(?reason, "stopping; the nodes serve on by the last assignment");
    tokio::select! {
        () = server.shutdown() => {}
        () = stop.exit_at_second_signal() => {}
    }
    Ok(Exit::Ok)
}
