//! [`Kind`]: the conditions that there are, and what each means.

/// A condition that somebody has to know of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A node reaches no Assigner.
    NoAssigner,
    /// The Assigner will not have this node.
    HelloRefused,
    /// What the Assigner says cannot be understood.
    AssignerNotUnderstood,
    /// The node's lease is over.
    LeaseOver,
    /// The node stood still, and serves nothing until the Assigner confirms.
    Suspended,
    /// The node was declared dead, and came back as a new life.
    DeclaredDead,
    /// The assignment gives the node what it will not serve under that acquisition.
    Contradicted,
    /// The name under which the node tells others to reach it does not resolve here.
    OwnName,
    /// A node from which something is to be taken cannot be reached.
    PeerUnreachable,
    /// What other nodes say is refused, again and again.
    MessagesRefused,
    /// Chunks arrive damaged.
    ChunksRefused,
    /// More keys were written during a pull than are remembered.
    WrittenKeysOverflow,
    /// Connections cannot be accepted.
    AcceptErrors,
    /// The Assigner refuses a node's hello.
    NodeRefused,
    /// Another Assigner is running.
    SecondAssigner,
    /// A life that is dead says hello.
    DeadNode,
    /// A node does not read what it is sent.
    NodeNotReading,
    /// Messages that nodes sent through the Assigner are dropped.
    RelaysDropped,
}

/// How a condition ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Who noticed it says so.
    Cleared,
    /// It was not noticed again for so many milliseconds. It may be cleared before.
    Quiet(u64),
}

/// How a kind behaves.
struct Row {
    name: &'static str,
    words: &'static str,
    words_of_end: &'static str,
    /// It counts once it has lasted for so long, in milliseconds.
    begins_after_ms: u64,
    /// And was noticed so many times.
    times_min: u64,
    end: End,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 18] = [
        Self::NoAssigner,
        Self::HelloRefused,
        Self::AssignerNotUnderstood,
        Self::LeaseOver,
        Self::Suspended,
        Self::DeclaredDead,
        Self::Contradicted,
        Self::OwnName,
        Self::PeerUnreachable,
        Self::MessagesRefused,
        Self::ChunksRefused,
        Self::WrittenKeysOverflow,
        Self::AcceptErrors,
        Self::NodeRefused,
        Self::SecondAssigner,
        Self::DeadNode,
        Self::NodeNotReading,
        Self::RelaysDropped,
    ];

    fn row(self) -> Row {
        let state = |name, begins_after_ms, words, words_of_end| Row {
            name,
            words,
            words_of_end,
            begins_after_ms,
            times_min: 1,
            end: End::Cleared,
        };
        let flood = |name, times_min, words, words_of_end| Row {
            name,
            words,
            words_of_end,
            begins_after_ms: 0,
            times_min,
            end: End::Quiet(30_000),
        };
        match self {
            // A session that breaks and is there again within a second is nobody's business.
            Self::NoAssigner => state(
                "no_assigner",
                1_000,
                "no Assigner can be reached: this node joins, drains and takes over from nobody",
                "the Assigner is reached again",
            ),
            Self::LeaseOver => state(
                "lease_over",
                0,
                "the lease is over: serving nothing until the Assigner renews it",
                "the lease is renewed: serving again",
            ),
            Self::Suspended => state(
                "suspended",
                0,
                "stood still for too long: serving nothing until the Assigner confirms",
                "the Assigner has confirmed, or is gone: serving again",
            ),
            Self::OwnName => state(
                "own_name",
                0,
                "the host of advertise does not resolve here: others may not reach this node",
                "the host of advertise resolves again",
            ),
            // The first message to a node that has just ended is lost, and its death soon heard of.
            Self::PeerUnreachable => Row {
                begins_after_ms: 1_000,
                end: End::Quiet(10_000),
                ..state(
                    "peer_unreachable",
                    0,
                    "a node that holds what this one is to take cannot be reached",
                    "that node is reached again, or not needed any more",
                )
            },
            Self::HelloRefused => flood(
                "hello_refused",
                1,
                "the Assigner refused this node",
                "the Assigner refuses this node no more",
            ),
            Self::AssignerNotUnderstood => flood(
                "assigner_not_understood",
                1,
                "a message of the Assigner cannot be understood",
                "the Assigner is understood again",
            ),
            Self::DeclaredDead => flood(
                "declared_dead",
                1,
                "this life was declared dead: it comes back as a new one",
                "not declared dead again",
            ),
            Self::Contradicted => flood(
                "contradicted",
                1,
                "the assignment gives this node what it will not serve under that acquisition: saying hello again",
                "the assignment fits again",
            ),
            // A few around restarts are normal.
            Self::MessagesRefused => flood(
                "messages_refused",
                20,
                "what others send is refused, again and again",
                "nothing is refused any more",
            ),
            Self::ChunksRefused => flood(
                "chunks_refused",
                1,
                "refused a chunk: it was damaged on its way",
                "no chunk is damaged any more",
            ),
            Self::WrittenKeysOverflow => flood(
                "written_keys_overflow",
                1,
                "a pull was given up: more keys were written meanwhile than are remembered",
                "no pull was given up for that any more",
            ),
            Self::AcceptErrors => flood(
                "accept_errors",
                1,
                "cannot accept a connection",
                "connections are accepted again",
            ),
            Self::NodeRefused => flood(
                "node_refused",
                1,
                "a node's hello is refused",
                "that node's hello is refused no more",
            ),
            Self::SecondAssigner => flood(
                "second_assigner",
                1,
                "a second Assigner is running, which is not supported: stop one of them",
                "the second Assigner is not heard of any more",
            ),
            Self::DeadNode => flood(
                "dead_node",
                3,
                "a life that is dead says hello, again and again",
                "the dead life is not heard of any more",
            ),
            Self::NodeNotReading => flood(
                "node_not_reading",
                1,
                "a node does not read what it is sent: its session was closed",
                "all nodes read what they are sent",
            ),
            Self::RelaysDropped => flood(
                "relays_dropped",
                10,
                "messages between nodes that travel through the Assigner are dropped",
                "no messages are dropped any more",
            ),
        }
    }

    /// Its name in metrics, `/readyz` and `softstore status`. Stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What is so, as a sentence for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        self.row().words
    }

    /// The same once it is over.
    #[must_use]
    pub fn words_of_end(self) -> &'static str {
        self.row().words_of_end
    }

    pub(super) fn begins_after_ms(self) -> u64 {
        self.row().begins_after_ms
    }

    pub(super) fn times_min(self) -> u64 {
        self.row().times_min
    }

    pub(super) fn end(self) -> End {
        self.row().end
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_listed_once_under_a_name_of_its_own() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.is_sorted());
    }
}
