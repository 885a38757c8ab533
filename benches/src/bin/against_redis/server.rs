//! The servers as child processes on one core, and this program's own core. They end with this program.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, ensure};
use softstore_benches::cluster::InProcess;

/// Set for the process that was started again on its own core.
const PINNED: &str = "SOFTSTORE_BENCH_PINNED";

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node's budget: the data set of this comparison is a small part of it.
const MEMORY_BYTES: u64 = 4 << 30;

/// Which process runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinning {
    /// The servers' core and the client's; `None`: this machine has too few, or no `taskset`.
    cores: Option<(usize, usize)>,
}

impl Pinning {
    pub(crate) fn new(server_core: usize, client_core: usize) -> Self {
        let can_pin = std::env::var_os(PINNED).is_some()
            || [server_core, client_core].iter().all(|core| {
                let tried = taskset(*core)
                    .arg("true")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                tried.is_ok_and(|status| status.success())
            });
        Self {
            cores: can_pin.then_some((server_core, client_core)),
        }
    }

    /// Starts this program again on the client's core, with the same arguments, in this process' place.
    pub(crate) fn pin_this_process(&self) -> Result<()> {
        let Some((_, client_core)) = self.cores else {
            return Ok(());
        };
        if std::env::var_os(PINNED).is_some() {
            return Ok(());
        }
        let program = std::env::current_exe().wrap_err("cannot find this program")?;
        let error = taskset(client_core)
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(PINNED, "1")
            .exec();
        Err(error).wrap_err("cannot start this program again under taskset")
    }

    /// What runs where, for people.
    pub(crate) fn describe(&self) -> String {
        match self.cores {
            Some((server, client)) => format!("servers on core {server}, clients on core {client}"),
            None => "not pinned: no such cores, or no taskset".to_owned(),
        }
    }

    fn server_command(&self, program: &std::ffi::OsStr) -> Command {
        match self.cores {
            Some((server_core, _)) => {
                let mut command = taskset(server_core);
                command.arg(program);
                command
            }
            None => Command::new(program),
        }
    }
}

fn taskset(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string());
    command
}

/// A child that is ended when it is dropped. `taskset` replaces itself by the program, so the id is the program's.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis without persistence.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Ended,
    port: u16,
}

impl RedisServer {
    pub(crate) fn is_installed() -> bool {
        let tried = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    }

    pub(crate) async fn start(pinning: &Pinning) -> Result<Self> {
        // Redis cannot choose a free port itself; one that was free a moment ago almost always still is.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = pinning
            .server_command("redis-server".as_ref())
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args([
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
                "--loglevel",
                "warning",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .wrap_err("cannot start redis-server")?;
        let mut server = Self {
            child: Ended(child),
            port,
        };
        server.answers().await?;
        Ok(server)
    }

    async fn answers(&mut self) -> Result<()> {
        let client = redis::Client::open(self.url())?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let pong: redis::RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
                if pong.is_ok() {
                    return Ok(());
                }
            }
            if let Some(status) = self.child.0.try_wait()? {
                bail!("redis-server has ended at once: {status}");
            }
            ensure!(
                Instant::now() < until,
                "redis-server does not answer on port {}",
                self.port
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }
}

/// This program as an Assigner and one node.
#[derive(Debug)]
pub(crate) struct SoftstoreServer {
    child: Ended,
    address: String,
}

impl SoftstoreServer {
    pub(crate) async fn start(pinning: &Pinning) -> Result<Self> {
        let program = std::env::current_exe().wrap_err("cannot find this program")?;
        let child = pinning
            .server_command(program.as_os_str())
            .arg("--serve-node")
            // Held open by this process; its end ends the server, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .wrap_err("cannot start the node")?;
        let mut child = Ended(child);
        let Some(stdout) = child.0.stdout.take() else {
            bail!("the node has no output")
        };
        let said = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = tokio::time::timeout(PATIENCE, said)
            .await
            .wrap_err("the node does not listen")???;
        let address = line.trim().to_owned();
        ensure!(!address.is_empty(), "the node has ended at once");
        Ok(Self { child, address })
    }

    /// `host:port` of the node.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }
}

/// Is the server: prints where the node listens, and runs until stdin ends. As many worker threads as cores it may use.
pub(crate) fn serve_node() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (_cluster, node) = runtime.block_on(InProcess::start(MEMORY_BYTES))?;
    println!("{}", node.grpc_addr());
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored)?;
    // Nobody is left to hand over to.
    runtime.shutdown_background();
    Ok(())
}
