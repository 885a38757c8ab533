//! [`Network`]: machines and links of the test's own, in unprivileged namespaces of Linux. Packets that a link loses vanish,
//! as in a real partition: no reset, no error at the sender.
//!
//! A test enters namespaces of its own by running its executable again under `unshare` ([`inside`]). There, each host is a
//! network namespace with one interface on a common bridge; the test itself is one of the hosts. A link from A to B is shaped
//! where it ends, at the bridge's port to B, by A's address: so each direction of each pair stands alone.
//!
//! Needs `unshare` and `nsenter` (util-linux), `ip` and `tc` (iproute2), and a kernel that allows unprivileged user namespaces
//! and has `sch_htb` and `cls_u32`. [`missing`] says what is not there.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::process::Command;

/// Bytes that wait at a slow link, more than senders have under way at once: a slow link delays, and loses nothing.
const SLOW_QUEUE_BYTES: u32 = 16 << 20;

/// A rate that delays nothing, in bytes a second.
const FAST_BYTES_PER_SECOND: u32 = 1_000_000_000;

/// Packets below 128 bytes, so that a mask can tell: acknowledgements of TCP with all their options, a SYN, frames of HTTP/2
/// that keep a connection alive and its windows open. Messages of a hand-off are longer.
const BARE_PACKET_MASK: &str = "match u16 0x0000 0xff80 at 2";

/// Filters of one link, by the order in which they are asked.
const PRIORITY_BARE: u32 = 100;
const PRIORITY_LOST: u32 = 200;
const PRIORITY_SLOW: u32 = 300;

/// The command that runs the test's executable in namespaces of its own, where it is root and has no network yet. Its
/// children do not outlive it.
#[must_use]
pub fn inside() -> std::process::Command {
    let mut command = std::process::Command::new("unshare");
    command.args(["-Urnm", "--kill-child=KILL", "--"]);
    command
}

/// What this machine lacks for networks of the tests' own; `None`: nothing.
#[must_use]
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let script = format!("set -e\n{}", script_of(&["probe", "other"]));
        let tried = inside().args(["sh", "-c", &script]).stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    };
    MISSING.get_or_init(look).as_deref()
}

/// Hosts on one bridge.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<&'static str>,
}

impl Network {
    /// Lays a network. The first host is the test itself. Only inside of namespaces of its own ([`inside`]).
    ///
    /// # Panics
    /// If something is missing.
    #[must_use]
    pub fn lay(hosts: &[&'static str]) -> Self {
        run(&format!("set -e\n{}", script_of(hosts)));
        Self {
            hosts: hosts.to_vec(),
        }
    }

    fn number(&self, host: &str) -> usize {
        let index = self.hosts.iter().position(|known| *known == host);
        index.expect("the host is there") + 1
    }

    /// The address of a host.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn address(&self, host: &str) -> Ipv4Addr {
        let number = u8::try_from(self.number(host)).expect("few hosts");
        Ipv4Addr::new(10, 66, 0, number)
    }

    /// The command, to be run on that host.
    #[must_use]
    pub fn on(&self, host: &str, command: &Command) -> Command {
        let inner = command.as_std();
        let mut outer = Command::new("nsenter");
        outer
            .arg(format!("--net=/run/netns/{host}"))
            .arg("--")
            .arg(inner.get_program())
            .args(inner.get_args())
            .kill_on_drop(true);
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer
    }

    /// Everything from one host to another is lost.
    pub fn cut(&self, from: &str, to: &str) {
        self.filter(from, to, PRIORITY_LOST, "", "1:2");
        self.unfilter(from, to, PRIORITY_BARE);
    }

    /// Connections stay, but no message of a hand-off gets from one host to another: only what is too short for one passes.
    pub fn hold_messages(&self, from: &str, to: &str) {
        self.filter(from, to, PRIORITY_BARE, BARE_PACKET_MASK, "1:1");
        self.filter(from, to, PRIORITY_LOST, "", "1:2");
    }

    /// Nothing is lost from one host to another any more; what was is for TCP to send again.
    pub fn heal(&self, from: &str, to: &str) {
        // The one that loses goes last: there is no moment at which less passes than before or after.
        for priority in [PRIORITY_LOST, PRIORITY_BARE] {
            self.unfilter(from, to, priority);
        }
    }

    /// Bytes from one host to another take their time.
    pub fn slow(&self, from: &str, to: &str, bytes_per_second: u32) {
        let class = self.rate(from, to, bytes_per_second);
        self.unfilter(from, to, PRIORITY_SLOW);
        self.filter(from, to, PRIORITY_SLOW, "", &class);
    }

    /// Not any more: what waits goes out at once, and in order.
    pub fn hasten(&self, from: &str, to: &str) {
        self.rate(from, to, FAST_BYTES_PER_SECOND);
    }

    /// Sets the rate of what is slow on a link. Returns the class of it.
    fn rate(&self, from: &str, to: &str, bytes_per_second: u32) -> String {
        let number = self.number(from) + 0x10;
        let class = format!("1:{number:x}");
        run(&format!(
            "tc class replace dev p-{to} parent 1: classid {class} htb rate {bytes_per_second}bps burst 2k cburst 2k quantum 1514
             tc qdisc replace dev p-{to} parent {class} handle {number:x}: bfifo limit {SLOW_QUEUE_BYTES}"
        ));
        class
    }

    fn filter(&self, from: &str, to: &str, priority: u32, and: &str, class: &str) {
        let (number, address) = (self.number(from), self.address(from));
        let preference = priority + u32::try_from(number).expect("few hosts");
        run(&format!(
            "tc filter add dev p-{to} parent 1: protocol ip pref {preference} u32 match ip src {address}/32 {and} flowid {class}"
        ));
    }

    fn unfilter(&self, from: &str, to: &str, priority: u32) {
        let preference = priority + u32::try_from(self.number(from)).expect("few hosts");
        run(&format!(
            "tc filter del dev p-{to} parent 1: pref {preference} 2>/dev/null || true"
        ));
    }
}

/// The commands that lay a network. Each port has a class for what passes and one that loses all.
fn script_of(hosts: &[&str]) -> String {
    let mut script = String::from(
        "mount -t tmpfs tmpfs /run\nip link add br0 type bridge\nip link set br0 up\nip link set lo up\n",
    );
    for (index, host) in hosts.iter().enumerate() {
        let address = format!("10.66.0.{}/24", index + 1);
        let lines = if index == 0 {
            format!(
                "ip link add name eth0 type veth peer name p-{host}\n\
                 ip addr add {address} dev eth0\nip link set eth0 up\n"
            )
        } else {
            format!(
                "ip netns add {host}\nip link add name p-{host} type veth peer name eth0 netns {host}\n\
                 ip -n {host} addr add {address} dev eth0\nip -n {host} link set eth0 up\nip -n {host} link set lo up\n"
            )
        };
        let class = "tc class add dev";
        // Writing to a String cannot fail.
        let _ = write!(
            script,
            "{lines}ip link set p-{host} master br0 up\n\
             tc qdisc add dev p-{host} root handle 1: htb default 1\n\
             {class} p-{host} parent 1: classid 1:1 htb rate 10gbit quantum 60000\n\
             {class} p-{host} parent 1: classid 1:2 htb rate 10gbit quantum 60000\n\
             tc qdisc add dev p-{host} parent 1:2 handle 2: bfifo limit 1\n\
             tc filter add dev p-{host} parent 1: protocol ip pref 1000 u32 match ip src 10.66.0.255/32 flowid 1:2\n"
        );
    }
    script
}

fn run(script: &str) {
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}");
}
