//! The first inputs of each fuzz target: messages as softstore itself encodes them, files as it prints them. The fuzzers
//! go on from there, and `fuzz/run minimise` keeps what they found.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use softstore_proto::batch::{OpBatch, ReplyBatch, ReplyBatchNotes, STREAM_VERSIONS};
use softstore_proto::cache::Moved;
use softstore_proto::transfer::{Relayed, peek_reply_to_wire};
use softstore_proto::v1;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, HandoffOutcome, HandoffReport, Hello, HotKeyLoad,
    LoadReport, NodeMessage, RangeClaim, SESSION_VERSIONS, SliceLoad,
};
use softstore_sharding::{
    Assignment, AssignmentDiff, ClusterId, ClusterName, Founding, FrequencyClass, Generation, Incarnation,
    NodeEntry, NodeState, ProcessId, Provider, RangeAssignment, Readers, Slice, SliceKey, Version,
};
use softstore_transfer::chunk::{CHUNK_VERSIONS, ChunkEntry};
use softstore_transfer::message::{
    Entry, FillAnswer, FillKey, FillRequest, Invalidate, LeaseGrant, LeaseReply, LeaseRequest, PeekAnswer,
    PeekKey, PeekRequest, PullRequest, Release, Take, TakeAnswer, TakeRange, TakeReply, TakenRange, Verdict,
};

use crate::chunk::encoded;
use crate::script::{life, peer, push_step};
use crate::settings_file;

fn since(number: u64) -> Generation {
    let assigner = Incarnation::new(1);
    Generation { number, assigner }
}

fn halves() -> (Slice, Slice) {
    Slice::FULL
        .split_before(SliceKey::new(1 << 63))
        .unwrap_or((Slice::FULL, Slice::FULL))
}

/// Chunks of none, one and some entries; and payloads behind a number of entries.
#[must_use]
pub fn chunks() -> Vec<Vec<u8>> {
    let entry = |key: &'static [u8], ttl_ms, version| ChunkEntry {
        key,
        value: b"value",
        version: Version::new(version),
        ttl_ms,
        class: FrequencyClass::clamped(7),
    };
    let some = [
        entry(b"a", None, 1),
        entry(b"user:42", Some(300_000), 1 << 40),
        entry(b"k", Some(0), u64::MAX),
    ];
    let frames = [&[][..], &some[..1], &some[..]].map(|entries| encoded(entries).to_vec());
    let payloads = frames
        .clone()
        .into_iter()
        .zip([0u16, 1, 3])
        .map(|(frame, entries)| {
            [
                &entries.to_le_bytes()[..],
                &frame[softstore_transfer::chunk::CHUNK_HEADER_BYTES..],
            ]
            .concat()
        });
    let payloads: Vec<Vec<u8>> = payloads.collect();
    frames.into_iter().chain(payloads).collect()
}

fn ops() -> Vec<v1::Op> {
    let set = v1::Op {
        id: 7,
        kind: v1::OpKind::Set.into(),
        key: Bytes::from_static(b"user:42"),
        value: Bytes::from_static(b"Ada"),
        ttl_ms: 300_000,
        condition: v1::SetCondition::IfVersion.into(),
        version: 1 << 41,
        delta: -3,
        report_existence: true,
        deadline_ms: 1_700_000_000_000,
        since_index: 1,
        slice: Some(halves().1.into()),
        fill: true,
    };
    let get = v1::Op {
        id: 8,
        kind: v1::OpKind::Get.into(),
        key: set.key.clone(),
        ..Default::default()
    };
    vec![get, set]
}

/// Batches of operations.
#[must_use]
pub fn op_batches() -> Vec<Vec<u8>> {
    let ops = ops();
    let batch =
        |ops: &[v1::Op], versions| OpBatch::of(ops, &[since(3), since(9)], 1_699_999_999_000, versions);
    vec![
        batch(&ops, Some(STREAM_VERSIONS)).encode_to_vec(),
        batch(&ops[..1], None).encode_to_vec(),
        batch(&[], Some(STREAM_VERSIONS)).encode_to_vec(),
    ]
}

fn moved() -> Moved {
    let (slice, owner, since) = (halves().0, peer(life(1, 0)), since(9));
    Moved { slice, owner, since }
}

fn replies() -> Vec<v1::Reply> {
    let found = v1::Reply {
        id: 7,
        status: v1::Status::Ok.into(),
        value: Bytes::from_static(b"Ada"),
        version: 1 << 41,
        ttl_ms: 299_000,
        number: -42,
        moved: None,
        message: String::new(),
    };
    let refused = v1::Reply {
        id: 8,
        status: v1::Status::Moved.into(),
        moved: Some(Box::new((&moved()).into())),
        message: "not here".to_owned(),
        ..Default::default()
    };
    vec![found, refused]
}

/// Batches of replies.
#[must_use]
pub fn reply_batches() -> Vec<Vec<u8>> {
    let notes = ReplyBatchNotes {
        closing: true,
        version: 1,
        value_bytes_max: 8 << 20,
    };
    let replies = replies();
    vec![
        ReplyBatch::of(&replies, notes).encode_to_vec(),
        ReplyBatch::of(&replies[..1], ReplyBatchNotes::default()).encode_to_vec(),
    ]
}

fn assignment(number: u64) -> Assignment {
    let (low, high) = halves();
    let owned = RangeAssignment {
        owner: life(0, 0),
        since: since(5),
        providers: Vec::new(),
        readers: Readers::default().replaced(vec![life(2, 0)]),
        awaits: Vec::new(),
    };
    let moving = RangeAssignment {
        owner: life(1, 0),
        since: since(number),
        providers: vec![
            Provider {
                life: life(0, 0),
                since: since(4),
            },
            Provider {
                life: life(2, 1),
                since: since(3),
            },
        ],
        readers: Readers::default(),
        awaits: Vec::new(),
    };
    let entry = |index: u8, state| {
        let life = life(index, 0);
        let entry = NodeEntry {
            incarnation: life.incarnation,
            process: None,
            address: format!("n{index}:1").into(),
            http_address: format!("n{index}:2").into(),
            zone: "east".into(),
            state,
        };
        (life.node, entry)
    };
    let directory = [
        entry(0, NodeState::Draining),
        entry(1, NodeState::Serving),
        entry(2, NodeState::Joining),
    ];
    Assignment::new(
        since(number),
        vec![(low, owned), (high, moving)],
        directory.into_iter().collect(),
    )
    .expect("a valid assignment")
    .under_leases(Some(2_000))
}

fn hello() -> Hello {
    let claim = |slice, phase| RangeClaim {
        slice,
        since: since(5),
        providers: vec![Provider {
            life: life(2, 0),
            since: since(4),
        }],
        phase,
    };
    let (low, high) = halves();
    Hello {
        peer: peer(life(0, 0)),
        http_address: "n0:2".into(),
        zone: "east".into(),
        capacity_bytes: 1 << 30,
        draining: false,
        generation: since(5),
        claims: vec![
            claim(low, ClaimPhase::Pulling(life(2, 0))),
            claim(high, ClaimPhase::Fenced(life(1, 0))),
        ],
        versions: SESSION_VERSIONS,
        lease_ms: Some(2_500),
        process: ProcessId::new(7),
        cluster: ClusterId {
            name: Some(ClusterName::local()),
            founding: Founding::new(11),
        },
        offers: None,
    }
}

fn node_messages() -> Vec<NodeMessage> {
    let slice = halves().1;
    let load = LoadReport {
        entries: 10,
        bytes: 1_000,
        operations_per_second: 12.5,
        busy_percent: 40,
        slices: vec![SliceLoad {
            operations_per_second: 12.5,
            bytes: 500,
            ..SliceLoad::idle(slice)
        }],
        hot_keys: vec![HotKeyLoad {
            at: slice.low(),
            operations_per_second: 8.0,
            error_per_second: 0.5,
            key: b"hot".to_vec(),
            key_bytes: 3,
        }],
        ..LoadReport::default()
    };
    let report = HandoffReport {
        slice,
        since: since(9),
        outcome: HandoffOutcome::Completed,
    };
    vec![
        NodeMessage::Hello(hello()),
        NodeMessage::Heartbeat {
            sequence: 3,
            generation: since(9),
            load,
            lease_ms: Some(2_500),
        },
        NodeMessage::NeedFull,
        NodeMessage::Draining,
        NodeMessage::Goodbye,
        NodeMessage::Handoffs(vec![report]),
        NodeMessage::HeldAssignment(Some(Arc::new(assignment(9)))),
        NodeMessage::Relay {
            to: life(1, 0),
            payload: Relayed::Take(take()).encode(),
        },
    ]
}

fn diff() -> AssignmentDiff {
    AssignmentDiff::between(&assignment(9), &assignment(10))
}

fn assigner_messages() -> Vec<AssignerMessage> {
    vec![
        AssignerMessage::Update(AssignmentUpdate::Full(Arc::new(assignment(9)))),
        AssignerMessage::Update(AssignmentUpdate::Diff(Arc::new(diff()))),
        AssignerMessage::HeartbeatAnswer {
            sequence: 3,
            generation: since(9),
            lease_ms: Some(2_500),
        },
        AssignerMessage::YouAreDead,
        AssignerMessage::FetchAssignment,
        AssignerMessage::Drain,
        AssignerMessage::NoTaker,
        AssignerMessage::Relay {
            from: life(1, 0),
            payload: Relayed::Take(take()).encode(),
        },
        AssignerMessage::Refused {
            reason: "another version".to_owned(),
        },
    ]
}

fn take() -> Take {
    let ranges = vec![TakeRange {
        slice: halves().1,
        since: since(9),
        from: since(5),
    }];
    Take {
        to: life(0, 0),
        taker: peer(life(1, 0)),
        ranges,
    }
}

fn take_reply() -> TakeReply {
    let (low, high) = halves();
    let answer = |slice, verdict| TakeAnswer {
        slice,
        since: since(9),
        from: since(5),
        verdict,
    };
    TakeReply {
        from: life(0, 0),
        chunk_versions: CHUNK_VERSIONS,
        answers: vec![
            answer(
                low,
                Verdict::FencedTo {
                    taker: peer(life(2, 0)),
                    since: since(7),
                },
            ),
            answer(
                high,
                Verdict::Fenced {
                    next_version: Version::new(5 << 22 | 77),
                },
            ),
            answer(high, Verdict::NotStarted),
            answer(high, Verdict::Superseded { since: since(11) }),
            answer(high, Verdict::Searching),
            answer(high, Verdict::Dropped),
        ],
    }
}

fn taken() -> Vec<TakenRange> {
    vec![TakenRange {
        slice: halves().1,
        since: since(9),
    }]
}

fn pull() -> PullRequest {
    PullRequest {
        to: life(0, 0),
        taker: life(1, 0),
        ranges: taken(),
        cursor: Bytes::from_static(b"cursor"),
        chunk_versions: CHUNK_VERSIONS,
    }
}

fn release() -> Release {
    Release {
        to: life(0, 0),
        taker: life(1, 0),
        ranges: taken(),
    }
}

fn peek() -> PeekRequest {
    let key = PeekKey {
        key: Bytes::from_static(b"user:42"),
        since: since(9),
    };
    PeekRequest {
        to: life(0, 0),
        taker: life(1, 0),
        keys: vec![key],
    }
}

fn lease_request() -> LeaseRequest {
    LeaseRequest {
        to: life(0, 0),
        reader: life(1, 0),
        ranges: taken(),
    }
}

fn lease_reply() -> LeaseReply {
    let grant = LeaseGrant {
        slice: halves().1,
        since: since(9),
        number: 1,
        lease_ms: 1_000,
    };
    LeaseReply {
        from: life(1, 0),
        grants: vec![grant],
    }
}

fn fill() -> FillRequest {
    let key = FillKey {
        key: Bytes::from_static(b"user:42"),
        number: 1,
    };
    FillRequest {
        to: life(0, 0),
        reader: life(1, 0),
        keys: vec![key],
    }
}

fn filled() -> FillAnswer {
    FillAnswer::Found {
        entry: entry(),
        may_keep: true,
    }
}

fn invalidate() -> Invalidate {
    Invalidate {
        to: life(0, 0),
        owner: life(1, 0),
        keys: vec![SliceKey::of_key(b"user:42")],
        revoked: vec![halves().1],
    }
}

fn entry() -> Entry {
    Entry {
        key: Bytes::from_static(b"user:42"),
        value: Bytes::from_static(b"Ada"),
        version: Version::new(1 << 41),
        ttl_ms: Some(300_000),
        class: FrequencyClass::clamped(7),
    }
}

fn pull_items() -> Vec<v1::PullItem> {
    let chunk = chunks().swap_remove(2).into();
    vec![
        v1::PullItem {
            chunk,
            cursor: Bytes::from_static(b"cursor"),
            ..Default::default()
        },
        v1::PullItem {
            complete: true,
            ..Default::default()
        },
        v1::PullItem {
            gone: true,
            ..Default::default()
        },
    ]
}

/// Each gRPC message behind the number of its kind, as `messages` reads them.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let full = AssignmentUpdate::Full(Arc::new(assignment(9)));
    let answers = [PeekAnswer::Found(entry()), PeekAnswer::Absent, PeekAnswer::Gone];
    let mut all: Vec<(u8, Vec<u8>)> = Vec::new();
    all.extend(
        node_messages()
            .iter()
            .map(|message| (0, v1::NodeMessage::from(message).encode_to_vec())),
    );
    all.extend(
        assigner_messages()
            .iter()
            .map(|message| (1, v1::AssignerMessage::from(message).encode_to_vec())),
    );
    all.extend([
        (2, v1::Assignment::from(&assignment(9)).encode_to_vec()),
        (3, v1::AssignmentUpdate::from(&full).encode_to_vec()),
        (4, v1::AssignmentDiff::from(&diff()).encode_to_vec()),
        (5, v1::TakeRequest::from(&take()).encode_to_vec()),
        (6, v1::TakeReply::from(&take_reply()).encode_to_vec()),
        (7, v1::PullRequest::from(&pull()).encode_to_vec()),
        (8, v1::PeekRequest::from(&peek()).encode_to_vec()),
        (9, v1::PeekAnswer::from(&answers[0]).encode_to_vec()),
        (10, v1::ReleaseRequest::from(&release()).encode_to_vec()),
        (11, v1::Moved::from(&moved()).encode_to_vec()),
        (12, v1::Entry::from(&entry()).encode_to_vec()),
        (13, peek_reply_to_wire(&answers).encode_to_vec()),
        (20, v1::LeaseRequest::from(&lease_request()).encode_to_vec()),
        (21, v1::LeaseReply::from(&lease_reply()).encode_to_vec()),
        (22, v1::FillRequest::from(&fill()).encode_to_vec()),
        (23, v1::FillAnswer::from(&filled()).encode_to_vec()),
        (24, v1::InvalidateRequest::from(&invalidate()).encode_to_vec()),
        (14, Relayed::Take(take()).encode()),
        (14, Relayed::TakeReply(take_reply()).encode()),
    ]);
    all.extend(ops().iter().map(|op| (15, op.encode_to_vec())));
    all.extend(replies().iter().map(|reply| (16, reply.encode_to_vec())));
    all.extend(pull_items().iter().map(|item| (17, item.encode_to_vec())));
    all.into_iter()
        .map(|(kind, bytes)| [&[kind][..], &bytes].concat())
        .collect()
}

/// Messages as they travel, then short forms that take a node through hand-offs as giver and as taker.
#[must_use]
pub fn node_scripts() -> Vec<Vec<u8>> {
    let mut spoken = vec![0];
    push_step(&mut spoken, 15, 1, &[]);
    push_step(&mut spoken, 9, 1, &[]);
    for message in assigner_messages() {
        push_step(
            &mut spoken,
            0,
            4,
            &v1::AssignerMessage::from(&message).encode_to_vec(),
        );
    }
    let mut given = vec![0];
    let held = AssignerMessage::Update(AssignmentUpdate::Full(Arc::new(assignment(5))));
    push_step(&mut given, 9, 1, &[]);
    push_step(
        &mut given,
        0,
        1,
        &v1::AssignerMessage::from(&held).encode_to_vec(),
    );
    push_step(
        &mut given,
        32,
        3,
        &v1::LeaseRequest::from(&lease_request()).encode_to_vec(),
    );
    push_step(
        &mut given,
        33,
        3,
        &v1::LeaseReply::from(&lease_reply()).encode_to_vec(),
    );
    push_step(
        &mut given,
        34,
        3,
        &v1::InvalidateRequest::from(&invalidate()).encode_to_vec(),
    );
    push_step(&mut given, 1, 3, &v1::TakeRequest::from(&take()).encode_to_vec());
    push_step(
        &mut given,
        2,
        3,
        &v1::TakeReply::from(&take_reply()).encode_to_vec(),
    );
    push_step(&mut given, 3, 3, &v1::PullRequest::from(&pull()).encode_to_vec());
    push_step(&mut given, 4, 3, &v1::PeekRequest::from(&peek()).encode_to_vec());
    push_step(
        &mut given,
        5,
        3,
        &v1::ReleaseRequest::from(&release()).encode_to_vec(),
    );
    for item in pull_items() {
        push_step(&mut given, 6, 3, &item.encode_to_vec());
    }
    push_step(&mut given, 7, 3, &ops()[0].encode_to_vec());

    // Owned by n1, then by this node with n1 as provider: asked, fenced, pulled, over.
    let mut taken = vec![0];
    push_step(&mut taken, 21, 1, &[5, 0x2f, 0, 0, 1, 1, 5, 0]);
    push_step(&mut taken, 21, 1, &[9, 0x2f, 0, 0, 1, 0, 9, 1, 1, 3]);
    push_step(&mut taken, 26, 4, &[0, 0, 7, 0, 0]);
    push_step(&mut taken, 31, 1, &[40, 9]);
    push_step(&mut taken, 17, 1, &[10, 20]);
    push_step(&mut taken, 24, 1, &[1, 0, 0, 255, 12, 9]);
    push_step(&mut taken, 29, 1, &[1, 0, 255, 12]);
    push_step(&mut taken, 16, 7, &[0]);
    push_step(&mut taken, 30, 1, &[1, 0, 255, 12]);
    push_step(&mut taken, 14, 9, &[]);

    // A session, an assignment over it, a standstill, a drain, a death.
    let mut session = vec![2];
    push_step(&mut session, 14, 1, &[]);
    push_step(&mut session, 9, 1, &[]);
    push_step(&mut session, 20, 1, &[0, 9, 0x2f, 0, 0, 1, 0, 9, 0]);
    push_step(&mut session, 14, 7, &[]);
    push_step(&mut session, 18, 4, &[1, 9]);
    push_step(&mut session, 14, 10, &[]);
    push_step(
        &mut session,
        20,
        1,
        &[1, 11, 0x2f, 0, 1, 32, 0, 9, 0, 1, 1, 11, 1, 0, 1],
    );
    push_step(&mut session, 11, 1, &[]);
    push_step(&mut session, 19, 1, &[0]);
    push_step(&mut session, 9, 1, &[]);
    push_step(&mut session, 10, 1, &[]);
    vec![spoken, given, taken, session]
}

/// Nodes as they travel, and in short: they join, move, drain and leave; one Assigner recovers.
#[must_use]
pub fn assigner_scripts() -> Vec<Vec<u8>> {
    let mut spoken = vec![0];
    for message in node_messages() {
        let bytes = v1::NodeMessage::from(&message).encode_to_vec();
        push_step(&mut spoken, 0, 4, &[&[0][..], &bytes].concat());
        push_step(&mut spoken, 1, 10, &[]);
    }
    let mut cluster = vec![2 | 4];
    for node in 0..3 {
        push_step(&mut cluster, 5, 1, &[node, node, 0]);
    }
    for time in [10, 10, 4] {
        push_step(&mut cluster, 1, time, &[]);
        for node in 0..3 {
            push_step(&mut cluster, 8, 1, &[node, 1, 1]);
        }
    }
    push_step(&mut cluster, 13, 1, &[0, 1]);
    push_step(&mut cluster, 4, 1, &[0]);
    push_step(&mut cluster, 1, 4, &[]);
    push_step(&mut cluster, 13, 1, &[1, 1]);
    push_step(&mut cluster, 12, 1, &[0]);
    push_step(&mut cluster, 3, 1, &[1]);
    push_step(&mut cluster, 1, 10, &[]);

    let mut recovering = vec![1];
    push_step(&mut recovering, 5, 1, &[0, 0, 1, 9, 0, 127, 1, 0, 9, 0]);
    push_step(
        &mut recovering,
        5,
        1,
        &[1, 1, 1, 9, 128, 255, 2, 0, 1, 9, 1, 0, 3],
    );
    push_step(
        &mut recovering,
        14,
        4,
        &[0, 9, 0x2f, 0, 1, 63, 0, 9, 0, 1, 1, 9, 1, 0, 3],
    );
    push_step(&mut recovering, 1, 10, &[]);
    push_step(&mut recovering, 1, 10, &[]);
    vec![spoken, cluster, recovering]
}

/// Updates and moves.
#[must_use]
pub fn clerk_scripts() -> Vec<Vec<u8>> {
    let mut spoken = Vec::new();
    for update in [
        AssignmentUpdate::Full(Arc::new(assignment(9))),
        AssignmentUpdate::Diff(Arc::new(diff())),
    ] {
        push_step(
            &mut spoken,
            0,
            0,
            &v1::AssignmentUpdate::from(&update).encode_to_vec(),
        );
    }
    push_step(&mut spoken, 1, 0, &v1::Moved::from(&moved()).encode_to_vec());
    let mut short = Vec::new();
    push_step(&mut short, 2, 0, &[9, 0x2f, 0, 1, 63, 0, 9, 0, 1, 1, 8, 0]);
    push_step(&mut short, 5, 0, &[0, 127, 12, 2]);
    push_step(&mut short, 4, 0, &[13, 0x2f, 0, 1, 63, 0, 13, 0, 1, 1, 12, 0]);
    vec![spoken, short]
}

/// What `softstore config` prints, without its comments and in parts that fit an input; and values in other notations.
#[must_use]
pub fn settings_files() -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = settings_file::printed()
        .iter()
        .map(|table| {
            let lines = table
                .lines()
                .filter(|line| !line.starts_with("# ") || line.contains(" = "));
            lines
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join("\n")
                .into_bytes()
        })
        .collect();
    files.push(
        b"# one\n[node]\nid = \"node-1\"\nlisten = '[::1]:7401'\nhttp_listen = \"off\"\nmemory_bytes = \"4GiB\"\n\
          transfer = \"off\"\npull_order = \"shuffled\"\nchunk_versions = \"1-2\"\ninsecure = true\n\
          hold_bytes_max = 0x10_0000\n[client]\nseeds = [\n  \"a:1\", \"\"\"b:2\"\"\",\n]\n"
            .to_vec(),
    );
    files.push(b"assigner = { sharder = \"ring\", expect_nodes = 3 }\nnode.zone = \"east\"\n".to_vec());
    files
}

/// Traces, each behind the byte that says its format.
#[must_use]
pub fn traces() -> Vec<Vec<u8>> {
    let ids: Vec<u8> = [7_u32, 9, 7, u32::MAX]
        .iter()
        .flat_map(|id| id.to_le_bytes())
        .collect();
    let csv =
        b"time,key,size,op,ttl\n0,a,100,get,0\r\n1.5,b,7,set,60\n\n2e3,a,300,cas,0\n3,b,7,delete,0".to_vec();
    vec![[&[0][..], &ids].concat(), [&[1][..], &csv].concat()]
}

/// Something for each of the small parsers, behind its number.
#[must_use]
pub fn texts() -> Vec<Vec<u8>> {
    let texts: [(u8, &[u8]); 20] = [
        (0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (0, b"GET /metrics HTTP/1.1\r\n"),
        (1, &[7, 2, b'h', b'i', 2, 1, 4, 0]),
        (2, b"user:42"),
        (3, b"node-1.zone_a"),
        (4, b"512MiB"),
        (4, b"1.5 GB"),
        (5, b"1-2"),
        (6, b"127.0.0.1:7401"),
        (6, b"off"),
        (7, b"500ms"),
        (7, b"30s"),
        (8, b"cache-0.cache.default.svc:7401"),
        (8, b"[::1]:7400"),
        (9, b"shuffled"),
        (9, b"off"),
        (9, b"ring"),
        (10, b"90:8:2"),
        (10, b"64MiB"),
        (
            11,
            br#"{"assigner":"a:1","assigner_pid":8,"nodes":[{"id":"n","pid":7,"grpc":"a:1","http":""}]}"#,
        ),
    ];
    texts
        .iter()
        .map(|(parser, text)| [&[*parser][..], text].concat())
        .collect()
}

/// Writes all seeds into the folder of the corpus, which is the first argument of the process, and ends it.
pub fn write_and_exit() {
    let corpus: PathBuf = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| "corpus".into())
        .into();
    match write_all(&corpus) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{}: {error}", corpus.display());
            std::process::exit(1)
        }
    }
}

fn write_all(corpus: &Path) -> io::Result<()> {
    let mut traces = traces();
    for (file, packed) in traces.clone().into_iter().zip(0..) {
        let (format, plain) = file.split_at(1);
        let mut input = format.to_vec();
        liblzma::read::XzEncoder::new(plain, packed % 3).read_to_end(&mut input)?;
        traces.push(input);
    }
    for (target, inputs) in [
        ("chunk", chunks()),
        ("op_batch", op_batches()),
        ("reply_batch", reply_batches()),
        ("messages", messages()),
        ("node", node_scripts()),
        ("assigner", assigner_scripts()),
        ("clerk", clerk_scripts()),
        ("settings", settings_files()),
        ("trace", traces),
        ("text", texts()),
    ] {
        write(&corpus.join(target), &inputs)?;
    }
    Ok(())
}

fn write(folder: &Path, inputs: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (index, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("seed-{index:02}")), input)?;
    }
    Ok(())
}
