//! The conformance suite, one test per property and engine.

use softstore_store::conformance::Config;
use softstore_store::{ModelStore, ModelStoreConfig, MokaStore, MokaStoreConfig, Store};

pub(crate) fn moka_store(config: Config) -> Box<dyn Store> {
    Box::new(MokaStore::new(MokaStoreConfig {
        budget_bytes: config.budget_bytes,
        budget_bytes_max: config.budget_bytes,
        value_bytes_max: config.value_bytes_max,
        frequency_half_life_ms: config.frequency_half_life_ms,
        written_keys_max: config.written_keys_max,
    }))
}

pub(crate) fn model_store(config: Config) -> Box<dyn Store> {
    Box::new(ModelStore::new(ModelStoreConfig {
        budget_bytes: config.budget_bytes,
        value_bytes_max: config.value_bytes_max,
        frequency_half_life_ms: config.frequency_half_life_ms,
        written_keys_max: config.written_keys_max,
    }))
}

mod moka_engine {
    softstore_store::conformance_tests!(super::moka_store);
}

mod model {
    softstore_store::conformance_tests!(super::model_store);
}
