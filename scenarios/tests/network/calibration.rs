//! The simulated TCP still agrees with what was recorded of a real kernel's (`CALIBRATION.md`).
//!
//! A sample of the points, each simulated anew: a change of the model that moves it away from the kernel fails here.

use scenarios::net::calibration::table::{Row, parse};
use scenarios::net::calibration::{Point, agrees, grid, link_settings, simulate};
use std::time::Duration;

fn recorded() -> Vec<Row> {
    parse(include_str!("../../CALIBRATION.md"))
}

fn near(left: &Point, right: &Point) -> bool {
    (left.loss - right.loss).abs() < 1e-9 && Point { loss: right.loss, ..*left } == *right
}

#[test]
fn every_point_of_the_grid_is_recorded_and_agrees() {
    let recorded = recorded();
    for point in grid(false) {
        let row = recorded.iter().find(|row| near(&row.point, &point));
        let row = row.unwrap_or_else(|| panic!("{point} is not recorded"));
        assert!(row.agrees() && row.real.calls > 1_000, "{point}: {row:?}");
    }
}

#[test]
fn the_model_still_agrees_with_the_recorded_kernel() {
    let sample = [
        // 1.8 % while round trips of segments sent again were measured from the first copy.
        (5, 0.05, 0, false),
        (5, 0.01, 500, true),
        (35, 0.0, 3_000, false),
        (35, 0.05, 0, true),
        (35, 0.01, 100, false),
        (80, 0.05, 500, false),
        (80, 0.0, 0, true),
    ];
    let recorded = recorded();
    for (rtt_ms, loss, partition_ms, cold) in sample {
        let point = Point { rtt_ms, loss, partition_ms, cold };
        let row = recorded.iter().find(|row| near(&row.point, &point)).unwrap();
        let until = Duration::from_secs(15);
        let simulated = simulate(point, link_settings(&point), 300, until, 2).unwrap();
        assert!(agrees(row.real.over, simulated.over), "{point}: {simulated:?}, recorded {:?}", row.real);
    }
}
