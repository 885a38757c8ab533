//! The conformance suite: what every engine must do, as tests that know the trait and nothing of an engine.
//!
//! Each property is a public function of its own, so that a failure names it.
//! [`conformance_tests!`](crate::conformance_tests) makes one `#[test]` of each; [`run`] runs them all. Time is injected; nothing sleeps; what is random is seeded.

pub mod epochs;
pub mod expiry;
pub mod listing;
pub mod operations;
pub mod pulls;
mod rig;
pub mod room;
pub mod threads;

use crate::store::Store;

/// What the suite asks of the engine it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The byte budget.
    pub budget_bytes: u64,
    /// The longest value in bytes.
    pub value_bytes_max: usize,
    /// The half-life of access counts in milliseconds.
    pub frequency_half_life_ms: u64,
    /// Most keys remembered as written.
    pub written_keys_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 20,
            value_bytes_max: 1 << 20,
            frequency_half_life_ms: 300_000,
            written_keys_max: 100_000,
        }
    }
}

/// Makes an empty engine.
pub type Make<'a> = &'a dyn Fn(Config) -> Box<dyn Store>;

macro_rules! properties {
    ($($module:ident :: $property:ident),* $(,)?) => {
        /// Runs the whole suite against engines made by `make`.
        ///
        /// # Panics
        /// If a property does not hold.
        pub fn run(make: Make<'_>) {
            $($module::$property(make);)*
        }

        /// Makes one `#[test]` per property of the suite, for the engine that the expression makes: a
        /// `fn(conformance::Config) -> Box<dyn Store>`.
        #[macro_export]
        macro_rules! conformance_tests {
            ($make:expr) => {
                $(
                    #[test]
                    fn $property() {
                        $crate::conformance::$module::$property(&$make);
                    }
                )*
            };
        }
    };
}

properties![
    operations::what_is_set_is_read_until_deleted,
    operations::conditions_decide,
    operations::counters_count,
    operations::bad_lengths_change_nothing,
    operations::versions_only_grow,
    operations::keys_at_one_position_displace_each_other,
    operations::bytes_are_copied,
    operations::read_and_get_agree,
    operations::overwrites_of_any_length_replace,
    expiry::deadlines_follow_the_injected_time,
    expiry::the_expired_is_absent_for_every_operation,
    expiry::an_idle_store_reclaims_the_expired,
    epochs::epochs_do_not_see_each_other,
    epochs::purge_spares_other_epochs,
    pulls::each_kind_of_write_is_remembered,
    pulls::what_changed_nothing_is_not_remembered,
    pulls::who_awaits_asks_nobody_and_remembers_refusals,
    pulls::who_awaits_takes_no_memory_from_a_pull,
    pulls::memory_outlives_eviction,
    pulls::an_overflow_refuses_all_imports,
    pulls::an_ended_pull_takes_nothing,
    pulls::unknown_exactly_when_it_must_be,
    pulls::imports_stand_as_they_came,
    pulls::memories_are_freed,
    listing::lists_by_class_and_slice,
    listing::lists_as_of_the_fence,
    listing::frozen_reads_count_no_access,
    listing::part_stats_are_close,
    listing::lists_what_stands_after_many_changes,
    room::an_acknowledged_set_is_readable_when_full_and_hot,
    room::the_budget_is_kept,
    room::absent_to_a_read_is_absent_to_a_write,
    room::large_values_make_their_room,
    room::a_full_store_takes_hotter_imports_only,
    room::the_hottest_imports_outlive_the_pull,
    room::another_budget_is_followed,
    threads::no_import_stands_over_a_write,
    threads::no_import_stands_over_an_evicted_write,
    threads::readers_never_see_a_version_go_back,
    threads::counters_lose_nothing,
    threads::gauges_agree_when_all_is_done,
];
