//! [`Counters`]: how often what happened in a run, so that tests can assert that it happened at all.

/// Counts of one run, or of several added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Ranges taken over warm.
    pub handoffs: u64,
    /// Ranges that began cold.
    pub cold_starts: u64,
    /// Ranges renewed in place.
    pub renewals: u64,
    /// Ranges that got back what a node held which was only away.
    pub revivals: u64,
    /// Keys peeked.
    pub peeks: u64,
    /// Peeks that found an entry.
    pub peeks_found: u64,
    /// Peeks passed on to a provider's own provider.
    pub peeks_passed_on: u64,
    /// Entries imported.
    pub imports: u64,
    /// Imports refused since the key had been written (H3).
    pub imports_refused: u64,
    /// Ranges fenced while they were still being pulled.
    pub chains: u64,
    /// Pulls that were resumed at a cursor.
    pub resumed: u64,
    /// Pulls ended complete.
    pub pulls_complete: u64,
    /// Pulls ended in another way.
    pub pulls_cut_short: u64,
    /// Operations held back until a search ended.
    pub held_back: u64,
    /// Hand-off messages relayed by the Assigner.
    pub relayed: u64,
    /// Hand-off messages refused.
    pub refused: u64,
    /// Messages lost.
    pub messages_lost: u64,
    /// Messages refused for their size.
    pub messages_too_large: u64,
    /// Entries evicted.
    pub evicted: u64,
    /// Graceful drains that ended with all handed over.
    pub drains: u64,
    /// Processes killed.
    pub kills: u64,
    /// Nodes told that they are dead.
    pub reborn: u64,
    /// Hellos that the Assigner refused.
    pub hellos_refused: u64,
    /// Assigners restarted.
    pub assigner_restarts: u64,
    /// Nodes that stood still.
    pub pauses: u64,
    /// Assigners that stood still.
    pub assigner_pauses: u64,
    /// Things done at a phase of a hand-off.
    pub traps_sprung: u64,
    /// Links that stood still.
    pub stalls: u64,
    /// Operations invoked.
    pub operations: u64,
    /// Reads that found a value.
    pub hits: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Operations that ended without a result.
    pub failed: u64,
    /// Operations whose outcome the client does not know.
    pub unknown: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Read leases granted or extended, by range.
    pub leases: u64,
    /// Reads that replicas answered.
    pub replica_reads: u64,
    /// Of those, from copies of their own.
    pub copies_read: u64,
    /// Questions of replicas to owners.
    pub fills: u64,
    /// Answers to them that were kept as copies.
    pub copies_kept: u64,
    /// Answers that were not, since the key was invalidated meanwhile or was about to change.
    pub copies_not_kept: u64,
    /// Reads that waited for a question which another one had asked, and were sent on, since it was not for them.
    pub joiners_sent_on: u64,
    /// Writes that waited for replicas.
    pub writes_waited: u64,
    /// Invalidations that replicas carried out.
    pub invalidations: u64,
    /// Leases that owners asked back.
    pub recalls: u64,
    /// Replicas that did not answer, and were lent nothing for a while.
    pub withheld: u64,
}

impl Counters {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        let Self {
            handoffs,
            cold_starts,
            renewals,
            revivals,
            peeks,
            peeks_found,
            peeks_passed_on,
            imports,
            imports_refused,
            chains,
            resumed,
            pulls_complete,
            pulls_cut_short,
            held_back,
            relayed,
            refused,
            messages_lost,
            messages_too_large,
            evicted,
            drains,
            kills,
            reborn,
            hellos_refused,
            assigner_restarts,
            pauses,
            assigner_pauses,
            traps_sprung,
            stalls,
            operations,
            hits,
            misses,
            failed,
            unknown,
            flushes,
            leases,
            replica_reads,
            copies_read,
            fills,
            copies_kept,
            copies_not_kept,
            joiners_sent_on,
            writes_waited,
            invalidations,
            recalls,
            withheld,
        } = other;
        self.handoffs += handoffs;
        self.cold_starts += cold_starts;
        self.renewals += renewals;
        self.revivals += revivals;
        self.peeks += peeks;
        self.peeks_found += peeks_found;
        self.peeks_passed_on += peeks_passed_on;
        self.imports += imports;
        self.imports_refused += imports_refused;
        self.chains += chains;
        self.resumed += resumed;
        self.pulls_complete += pulls_complete;
        self.pulls_cut_short += pulls_cut_short;
        self.held_back += held_back;
        self.relayed += relayed;
        self.refused += refused;
        self.messages_lost += messages_lost;
        self.messages_too_large += messages_too_large;
        self.evicted += evicted;
        self.drains += drains;
        self.kills += kills;
        self.reborn += reborn;
        self.hellos_refused += hellos_refused;
        self.assigner_restarts += assigner_restarts;
        self.pauses += pauses;
        self.assigner_pauses += assigner_pauses;
        self.traps_sprung += traps_sprung;
        self.stalls += stalls;
        self.operations += operations;
        self.hits += hits;
        self.misses += misses;
        self.failed += failed;
        self.unknown += unknown;
        self.flushes += flushes;
        self.leases += leases;
        self.replica_reads += replica_reads;
        self.copies_read += copies_read;
        self.fills += fills;
        self.copies_kept += copies_kept;
        self.copies_not_kept += copies_not_kept;
        self.joiners_sent_on += joiners_sent_on;
        self.writes_waited += writes_waited;
        self.invalidations += invalidations;
        self.recalls += recalls;
        self.withheld += withheld;
    }
}
