//! The planner on small clusters: what each phase is for, and that it stops.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::slice::Slice;
use crate::slice_key::SliceKey;

fn node(name: &str, capacity: u32, standing: Standing) -> Node {
    Node {
        name: name.into(),
        capacity_load: f64::from(capacity),
        capacity_bytes: u64::from(capacity) * 1_000_000,
        zone: "".into(),
        standing,
    }
}

fn nodes(count: usize) -> Vec<Node> {
    let named = |index| node(&format!("n{index}"), 100, Standing::Eligible);
    (0..count).map(named).collect()
}

/// Equal parts with these loads.
fn parts(loads: &[f64]) -> Vec<Part> {
    let width = (1_u128 << 64) / loads.len() as u128;
    let part = |(index, load): (usize, &f64)| {
        let low = SliceKey::new(u64::try_from(index as u128 * width).unwrap());
        let is_last = index + 1 == loads.len();
        let high = (!is_last).then(|| SliceKey::new(u64::try_from((index as u128 + 1) * width).unwrap()));
        Part {
            slice: Slice::new(low, high).unwrap(),
            load: *load,
            bytes: 1_000.0,
            hits: *load,
        }
    };
    loads.iter().enumerate().map(part).collect()
}

fn placed(nodes: Vec<Node>, loads: Vec<Part>) -> Cluster {
    let mut cluster = Cluster {
        nodes,
        loads,
        ..Cluster::default()
    };
    cluster.pieces = plan(&cluster, &Settings::default()).pieces;
    cluster
}

/// Load per capacity of each node, over the mean.
fn loads(cluster: &Cluster, pieces: &[Piece]) -> Vec<f64> {
    let density = density::Density::new(&cluster.loads, &cluster.hot_keys);
    let mut loads = vec![0.0; cluster.nodes.len()];
    for piece in pieces {
        let each = density.of(piece.slice).load / piece.owners.len() as f64;
        for owner in &piece.owners {
            loads[*owner as usize] += each;
        }
    }
    let lives = |node: &Node| matches!(node.standing, Standing::Eligible | Standing::Reserve);
    let capacity: f64 = cluster
        .nodes
        .iter()
        .filter(|node| lives(node))
        .map(|node| node.capacity_load)
        .sum();
    let mean = density.total().load / capacity;
    let relative = |(load, node): (&f64, &Node)| load / node.capacity_load / mean;
    loads.iter().zip(&cluster.nodes).map(relative).collect()
}

/// Plan: skewed loads on nodes of which one is of double size. Each bears its part by capacity, within the tolerance.
#[test]
fn load_follows_capacity() {
    let mut nodes = nodes(4);
    nodes[2] = node("n2", 200, Standing::Eligible);
    let skewed: Vec<f64> = (0..64).map(|index| f64::from(index * index % 37) + 1.0).collect();
    let cluster = placed(nodes, parts(&skewed));
    for load in loads(&cluster, &cluster.pieces) {
        assert!((load - 1.0).abs() < 0.03, "{load}");
    }
}

/// Plan: one part's load doubles. What moves is about the excess of its owner, nothing else, and the next round moves nothing.
#[test]
fn only_the_excess_moves() {
    let mut cluster = placed(nodes(4), parts(&[5.0; 64]));
    cluster.loads = parts(&[&[25.0][..], &[5.0; 63][..]].concat());
    let planned = plan(&cluster, &Settings::default());
    let moved: Vec<&Move> = planned
        .moves
        .iter()
        .filter(|change| change.from != change.to)
        .collect();
    assert!(!moved.is_empty());
    assert!(
        moved
            .iter()
            .all(|change| change.reason == Reason::OverTolerance && change.gain_load > 0.0)
    );
    let density = density::Density::new(&cluster.loads, &[]);
    let load: f64 = moved.iter().map(|change| density.of(change.slice).load).sum();
    assert!(load < 20.0 * 0.75 + 1.0, "moved {load}");
    cluster.pieces = planned.pieces;
    let again = plan(&cluster, &Settings::default());
    assert_eq!(again.pieces, cluster.pieces);
    assert_eq!(again.moves, []);
}

/// Plan: a key draws half of the load. It gets a slice and as many replicas as are needed, each on a node of its own; when it has
/// cooled all is taken back.
#[test]
fn a_hot_key_is_isolated_replicated_and_taken_back() {
    let settings = Settings {
        replicas_max: 4,
        churn_budget: 1.0,
        ..Settings::default()
    };
    let mut cluster = placed(nodes(8), parts(&[5.0; 64]));
    let at = SliceKey::new(0x1234_5678_9abc_def0);
    let index = (at.get() >> 58) as usize;
    let mut loads_now = vec![5.0; 64];
    loads_now[index] += 320.0;
    cluster.loads = parts(&loads_now);
    cluster.hot_keys = vec![HotSpot {
        at,
        load: 320.0,
        bytes: 1.0,
    }];
    let planned = plan(&cluster, &settings);
    let single = |pieces: &[Piece]| {
        let found = pieces.iter().find(|piece| piece.slice == Slice::single(at));
        found.map(|piece| piece.owners.clone())
    };
    let owners = single(&planned.pieces).expect("it has a slice of its own");
    assert_eq!(owners.len(), 4);
    let reasons: BTreeMap<Reason, usize> = planned.moves.iter().fold(BTreeMap::new(), |mut sum, change| {
        *sum.entry(change.reason).or_default() += 1;
        sum
    });
    assert_eq!(reasons[&Reason::HotKeyIsolated], 1);
    assert_eq!(reasons[&Reason::Replicated], 3);
    for load in loads(&cluster, &planned.pieces) {
        assert!(load < 1.05, "{load}");
    }
    cluster.pieces = planned.pieces;
    cluster.loads = parts(&[5.0; 64]);
    cluster.hot_keys.clear();
    let cooled = plan(&cluster, &settings);
    assert!(cooled.pieces.iter().all(|piece| piece.owners.len() == 1));
    cluster.pieces = cooled.pieces;
    assert_eq!(single(&plan(&cluster, &settings).pieces), None);
}

/// Plan: a node drains while a reserve waits. The reserve takes all of it, and nothing else moves. Without a reserve the others
/// share it evenly.
#[test]
fn a_leaver_is_paired_with_a_reserve() {
    let mut cluster = placed(nodes(4), parts(&[5.0; 64]));
    cluster.nodes[1].standing = Standing::Leaving;
    let alone = plan(&cluster, &Settings::default());
    assert!(alone.pieces.iter().all(|piece| piece.owners != [1]));
    assert!(
        alone
            .moves
            .iter()
            .any(|change| change.reason == Reason::Drain && change.cost_bytes > 0.0)
    );
    cluster.nodes.push(node("n4", 100, Standing::Reserve));
    let paired = plan(&cluster, &Settings::default());
    for (before, after) in cluster.pieces.iter().zip(&paired.pieces) {
        let expected = if before.owners == [1] {
            vec![4]
        } else {
            before.owners.clone()
        };
        assert_eq!((before.slice, &expected), (after.slice, &after.owners));
    }
}

/// Plan: on 16 level nodes a key draws 0.9 of a fair share; its owner drains, and nobody waits. Several share the key, so that
/// nobody has to give anything else away for it. When there is room again, it has fewer owners.
#[test]
fn a_hot_key_that_must_move_displaces_nothing() {
    let settings = Settings {
        replicas_max: 16,
        ..Settings::default()
    };
    let mut cluster = Cluster {
        nodes: nodes(16),
        loads: parts(&[10.0; 128]),
        ..Cluster::default()
    };
    let at = SliceKey::new(0x1234_5678_9abc_def0);
    cluster.loads[(at.get() >> 57) as usize].load += 77.0;
    cluster.hot_keys = vec![HotSpot {
        at,
        load: 77.0,
        bytes: 1.0,
    }];
    cluster.pieces = plan(&cluster, &settings).pieces;
    let owners = |pieces: &[Piece]| {
        let found = pieces.iter().find(|piece| piece.slice == Slice::single(at));
        found.map_or(Vec::new(), |piece| piece.owners.clone())
    };
    let [owner] = owners(&cluster.pieces)[..] else {
        panic!("one node bears it: {cluster:?}");
    };
    cluster.nodes[owner as usize].standing = Standing::Leaving;
    let planned = plan(&cluster, &settings);
    let displaced: f64 = planned
        .moves
        .iter()
        .filter(|change| change.from != change.to && !change.reason.is_membership())
        .map(|change| change.cost_bytes)
        .sum();
    assert!(displaced < 128_000.0 * 0.01, "{:?}", planned.moves);
    assert!(owners(&planned.pieces).len() > 4);
    cluster.pieces = planned.pieces;
    assert_eq!(plan(&cluster, &settings).pieces, cluster.pieces, "it stays so");
    cluster.loads = parts(&[10.0; 128]);
    cluster.hot_keys.clear();
    assert!(owners(&plan(&cluster, &settings).pieces).len() <= 1);
}

/// Plan: a key has replicas; the node of one drains while a reserve waits. The reserve gets that replica with all else, and
/// nothing else moves.
#[test]
fn a_reserve_takes_replicas_too() {
    let settings = Settings {
        replicas_max: 4,
        ..Settings::default()
    };
    let mut cluster = Cluster {
        nodes: nodes(8),
        loads: parts(&[5.0; 64]),
        ..Cluster::default()
    };
    let at = SliceKey::new(0x1234_5678_9abc_def0);
    cluster.loads[(at.get() >> 58) as usize].load += 320.0;
    cluster.hot_keys = vec![HotSpot {
        at,
        load: 320.0,
        bytes: 1.0,
    }];
    cluster.pieces = plan(&cluster, &settings).pieces;
    let hot = |pieces: &[Piece]| pieces.iter().position(|piece| piece.slice == Slice::single(at));
    let index = hot(&cluster.pieces).unwrap();
    let leaver = cluster.pieces[index].owners[1];
    cluster.nodes[leaver as usize].standing = Standing::Leaving;
    cluster.nodes.push(node("n8", 100, Standing::Reserve));
    let planned = plan(&cluster, &settings);
    for (before, after) in cluster.pieces.iter().zip(&planned.pieces) {
        let mut expected: Vec<NodeIndex> = before.owners.clone();
        let had = expected.contains(&leaver);
        expected.retain(|owner| *owner != leaver);
        if had {
            expected.push(8);
        }
        assert_eq!((before.slice, &expected), (after.slice, &after.owners));
    }
}

/// Plan: a node bears too much: a key of its own slice, and a slice at whose end there is a key that is more than anybody has
/// room for. It is relieved all the same: at the other end there is enough to cut off.
#[test]
fn a_spot_in_the_way_is_cut_around() {
    let (own, last) = (SliceKey::new(1 << 61), SliceKey::new((1 << 62) - 1));
    let mut drawn = vec![5.9; 64];
    drawn[..16].fill(0.0);
    drawn[8] = 88.0;
    drawn[9..12].fill(5.0);
    drawn[15] = 18.0;
    let quarter = |index: u64| {
        let high = (index < 3).then(|| SliceKey::new((index + 1) << 62));
        Slice::new(SliceKey::new(index << 62), high).unwrap()
    };
    let (below, rest) = quarter(0).split_before(own).unwrap();
    let (single, above) = rest.split_before(own.next().unwrap()).unwrap();
    let slices = [
        (below, 0),
        (single, 0),
        (above, 0),
        (quarter(1), 1),
        (quarter(2), 2),
        (quarter(3), 3),
    ];
    let piece = |(slice, owner)| Piece {
        slice,
        owners: vec![owner],
        is_pinned: false,
    };
    let spot = |at, load| HotSpot { at, load, bytes: 1.0 };
    let cluster = Cluster {
        nodes: nodes(4),
        pieces: slices.map(piece).to_vec(),
        loads: parts(&drawn),
        hot_keys: vec![spot(own, 88.0), spot(last, 18.0)],
    };
    let settings = Settings {
        noise: 0.02,
        ..Settings::default()
    };
    assert!(loads(&cluster, &cluster.pieces)[0] > 1.15);
    let planned = plan(&cluster, &settings);
    for load in loads(&cluster, &planned.pieces) {
        assert!(load < 1.05, "{load}");
    }
}

/// Plan: many keys have slices of their own, and their nodes bear no more than they should; one node bears too much. Those keys
/// spend nothing of what a round may look at, so it is levelled in a large cluster too.
#[test]
fn keys_that_need_nothing_cost_no_looks() {
    let (count, spots) = (64, 256);
    let mut cluster = placed(nodes(count), parts(&vec![60.0; count]));
    let spot = |index: usize| HotSpot {
        at: SliceKey::new((index as u64) << 56 | 1 << 40),
        load: 10.0,
        bytes: 1.0,
    };
    cluster.hot_keys = (0..spots).map(spot).collect();
    let mut loads = vec![60.0; count];
    loads[0] = 120.0;
    cluster.loads = parts(&loads);
    let settings = Settings {
        looks_max: (count * spots) as u64 / 2,
        ..Settings::default()
    };
    let planned = plan(&cluster, &settings);
    let isolated = planned
        .moves
        .iter()
        .filter(|change| change.reason == Reason::HotKeyIsolated);
    assert_eq!(isolated.count(), spots);
    let over = |change: &Move| change.reason == Reason::OverTolerance;
    assert!(planned.moves.iter().any(over), "{:?}", planned.moves.len());
}

/// Plan: loads are even, bytes are not. The node that holds too much gives some away, and loads stay within the tolerance.
#[test]
fn memory_is_levelled_too() {
    let mut cluster = placed(nodes(4), parts(&[5.0; 64]));
    let full = cluster.pieces[0].owners[0];
    let owner_of = |slice: Slice| {
        let holder = cluster
            .pieces
            .iter()
            .find(|piece| piece.slice.contains(slice.low()));
        holder.unwrap().owners[0]
    };
    let mut uneven = cluster.loads.clone();
    for part in &mut uneven {
        part.bytes = if owner_of(part.slice) == full {
            9_000_000.0
        } else {
            3_500_000.0
        };
    }
    cluster.loads = uneven;
    let settings = Settings {
        churn_budget: 1.0,
        ..Settings::default()
    };
    let planned = plan(&cluster, &settings);
    assert!(
        planned
            .moves
            .iter()
            .any(|change| change.reason == Reason::OverMemory)
    );
    let density = density::Density::new(&cluster.loads, &[]);
    let mut bytes = [0.0; 4];
    for piece in &planned.pieces {
        bytes[piece.owners[0] as usize] += density.of(piece.slice).bytes;
    }
    let fair = density.total().bytes / 4.0;
    assert!(bytes.iter().all(|bytes| *bytes < fair * 1.15), "{bytes:?}");
    assert!(loads(&cluster, &planned.pieces).iter().all(|load| *load < 1.1));
}

/// Plan: 2,000 nodes with 50 slices each, dealt in turn; loads are as uneven as an exponential distribution makes them, and a
/// node dies. With few looks a round the plan is valid, places all that the dead node had, and moves something; with each
/// round the loads get more even, until nothing more is to be done. The worst that a round of the default may take is as many.
#[test]
fn a_round_is_bounded_and_what_it_has_done_is_valid() {
    const NODES: u32 = 2_000;
    let drawn: Vec<f64> = (0..100_000_u64)
        .map(|index| {
            let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
            -((mixed as f64 + 1.0) / (1_u64 << 53) as f64).ln()
        })
        .collect();
    let loads_now = parts(&drawn);
    let piece = |(index, part): (u32, &Part)| Piece {
        slice: part.slice,
        owners: vec![index % NODES],
        is_pinned: false,
    };
    let mut cluster = Cluster {
        nodes: nodes(NODES as usize),
        pieces: (0..).zip(&loads_now).map(piece).collect(),
        loads: loads_now,
        ..Cluster::default()
    };
    cluster.nodes[7].standing = Standing::Dead;
    let settings = |looks_max| Settings {
        looks_max,
        noise: 0.0,
        tolerance_high: 0.02,
        churn_budget: 1.0,
        ..Settings::default()
    };
    let worst = |pieces: &[Piece]| loads(&cluster, pieces).into_iter().fold(0.0, f64::max);
    let few = plan(&cluster, &settings(20_000));
    let all = plan(&cluster, &settings(1_000_000_000));
    assert!(
        few.moves.len() < all.moves.len() / 3,
        "{} of {}",
        few.moves.len(),
        all.moves.len()
    );
    assert!(
        few.moves
            .iter()
            .any(|change| change.reason == Reason::OverTolerance)
    );
    for pieces in [&few.pieces, &all.pieces] {
        let mut next = Some(SliceKey::MIN);
        for piece in pieces {
            assert_eq!(Some(piece.slice.low()), next);
            assert!(piece.owners.len() == 1 && piece.owners[0] != 7);
            next = piece.slice.high_excluded();
        }
        assert_eq!(next, None);
    }
    // The tolerance is of the capacities, twice what is borne.
    assert!(worst(&all.pieces) < 1.05);
    assert!(worst(&few.pieces) > worst(&all.pieces) && worst(&few.pieces) < worst(&cluster.pieces));
    let more = Cluster {
        pieces: few.pieces.clone(),
        ..cluster.clone()
    };
    assert!(worst(&plan(&more, &settings(20_000)).pieces) < worst(&few.pieces));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the loads and whoever is lost: the plan is complete and in order, names living nodes, is the same each time, and
    /// is a fixed point soon.
    #[test]
    fn plans_are_whole_and_settle(
        drawn in prop::collection::vec(0.0_f64..50.0, 8..80),
        later in prop::collection::vec(0.0_f64..50.0, 8..80),
        lost in 0_usize..6,
    ) {
        let settings = Settings { churn_budget: 1.0, ..Settings::default() };
        let mut cluster = placed(nodes(6), parts(&drawn));
        cluster.loads = parts(&later);
        cluster.nodes[lost].standing = Standing::Dead;
        for round in 0..4 {
            let planned = plan(&cluster, &settings);
            prop_assert_eq!(&planned, &plan(&cluster, &settings));
            let mut next = Some(SliceKey::MIN);
            for piece in &planned.pieces {
                prop_assert_eq!(Some(piece.slice.low()), next);
                prop_assert!(piece.owners.len() == 1 && piece.owners[0] as usize != lost);
                next = piece.slice.high_excluded();
            }
            prop_assert_eq!(next, None);
            if round == 3 {
                prop_assert_eq!(&planned.pieces, &cluster.pieces);
            }
            cluster.pieces = planned.pieces;
        }
    }
}

/// Plan: a key has the replicas that it needed, and grows: each of those that have it bears more than it should again, though less
/// than would be too much for a key without any. It gets more.
#[test]
fn a_replicated_key_that_grows_gets_more_replicas() {
    let at = SliceKey::new(0x1234_5678_9abc_def0);
    let mut cluster = placed(nodes(8), parts(&[5.0; 64]));
    let mut plan_for = |load: f64, replicas_max: u32| {
        let mut loads_now = vec![5.0; 64];
        loads_now[(at.get() >> 58) as usize] += load;
        cluster.loads = parts(&loads_now);
        cluster.hot_keys = vec![HotSpot { at, load, bytes: 1.0 }];
        let settings = Settings {
            replicas_max,
            churn_budget: 1.0,
            ..Settings::default()
        };
        cluster.pieces = plan(&cluster, &settings).pieces;
        let piece = cluster.pieces.iter().find(|piece| piece.slice.contains(at));
        piece.unwrap().owners.len()
    };
    assert_eq!(plan_for(160.0, 4), 4);
    assert_eq!(plan_for(180.0, 8), 4, "a little more is borne");
    assert!(plan_for(300.0, 8) > 4);
}

/// Plan: one node bears half as much again as the others, in few pieces that are each more than the churn budget. In each round as
/// much moves as it allows for, and no sliver; with no budget, nothing. After some rounds all bear the same.
#[test]
fn a_small_budget_moves_what_it_allows_for() {
    let mut cluster = placed(nodes(4), parts(&[5.0; 64]));
    let first = cluster.pieces[0].slice;
    cluster.loads = parts(&[5.0; 64]);
    for part in cluster
        .loads
        .iter_mut()
        .filter(|part| first.contains(part.slice.low()))
    {
        part.load *= 1.5;
    }
    let whole: f64 = cluster.loads.iter().map(|part| part.bytes).sum();
    let round = |cluster: &mut Cluster, churn_budget: f64| {
        let settings = Settings {
            churn_budget,
            noise: 0.01,
            ..Settings::default()
        };
        let planned = plan(cluster, &settings);
        cluster.pieces = planned.pieces;
        let moved = planned.moves.iter().filter(|change| change.from != change.to);
        let moved: Vec<f64> = moved.map(|change| change.cost_bytes / whole).collect();
        assert!(moved.iter().sum::<f64>() <= churn_budget);
        assert!(moved.iter().all(|part| *part > 0.001), "slivers: {moved:?}");
        moved.iter().sum::<f64>()
    };
    assert_eq!(round(&mut cluster, 0.0), 0.0);
    for _ in 0..3 {
        assert!(round(&mut cluster, 0.01) > 0.005);
    }
    for _ in 0..20 {
        round(&mut cluster, 0.01);
    }
    let highest = loads(&cluster, &cluster.pieces).into_iter().fold(0.0, f64::max);
    assert!(highest < 1.06, "{highest}");
}
