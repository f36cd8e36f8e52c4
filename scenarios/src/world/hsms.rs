//! The HSMs of a world, as the scenario describes them.

use super::{KEY_ID, Options};
use crate::clock::Clock;
use crate::scenario::Scenario;
use sim_hsm::{
    Capacity, Configuration, Control, FaultPlan, IvLedger, KeySpecification, ServiceTime, ServiceTimes,
    SimHsm,
};
use std::sync::Arc;
use std::time::Duration;

/// One device after the other, with the handles that control them.
///
/// # Errors
/// When a real PKCS#11 library behind one does not open.
pub(super) fn build(
    clock: &Clock,
    scenario: &Scenario,
    options: &Options,
    ledger: &IvLedger,
) -> Result<Vec<(SimHsm, Control)>, String> {
    let timer: Arc<dyn sim_hsm::Timer> = Arc::new(clock.clone());
    let operation = ServiceTime::Lognormal {
        median: Duration::from_secs_f64(scenario.hsm.service_ms / 1_000.0),
        sigma: scenario.hsm.service_sigma,
    };
    (0..scenario.topology.hsms)
        .map(|index| {
            let configuration = Configuration {
                name: format!("hsm-{index}"),
                seed: options.seed,
                stream: index as u64,
                keys: vec![KeySpecification::aes_256(KEY_ID)],
                capacity: Capacity {
                    parallel_max: scenario.hsm.parallel_max,
                    sessions_max: scenario.hsm.sessions_max,
                    queue_max: scenario.hsm.sessions_max,
                    service_times: ServiceTimes {
                        // Attributes are read once and cached by a proxy over PKCS#11.
                        describe: ServiceTime::ZERO,
                        encrypt: operation,
                        decrypt: operation,
                    },
                    ..Capacity::default()
                },
                faults: FaultPlan::quiet(),
                ledger: Some(ledger.clone()),
                ..Configuration::default()
            };
            match &options.engine {
                None => Ok(SimHsm::new(configuration, Arc::clone(&timer))),
                Some(make) => Ok(SimHsm::with_engine(configuration, make(index)?, Arc::clone(&timer))),
            }
        })
        .collect()
}
