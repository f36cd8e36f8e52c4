//! Inline SVG for the page: bands of faults and alarms, success strips, lines and areas, all over one time axis.
//!
//! Place on the map: used by `html`. A plot is as wide as its column. What lies on the time axis stands in an inner `svg`
//! of the class `time`, stretched over the plot (one unit per bucket), so nothing is scaled down to illegibility on a phone,
//! and the page's script zooms by changing that drawing's `viewBox`. Text and grid lines are placed in per cent, and the
//! script places them anew. Whatever is not finite is left out: no `NaN` reaches a path.

use super::human::{count, duration, latency};
use crate::result::{FaultBand, RunResult, ServiceResult};
use maud::{Markup, html};
use std::fmt::Write;

/// Height of a success strip in CSS pixels.
const STRIP_PX: u32 = 40;
/// Height of the latency plot.
const LATENCY_PX: u32 = 168;
/// Height of the plots of counts: calls, queues, retries, exceptions.
const COUNT_PX: u32 = 64;
/// Height of a row of bands.
const BAND_PX: u32 = 16;
/// A failure is drawn at least this many per cent high, so that a single one is seen.
const LEAST_DENT: f64 = 7.0;

/// The time axis all plots share.
pub(super) struct Axis {
    /// Milliseconds from left to right, at least one.
    duration_ms: u64,
    /// Milliseconds per bucket, at least one.
    bucket_ms: u64,
    ticks: Vec<Tick>,
}

struct Tick {
    at_ms: u64,
    label: String,
    /// Left out where there is little room.
    minor: bool,
}

/// What a plot is called and says, for those who do not see it.
pub(super) struct Words<'a> {
    /// Unique in the page: names the plot for scripts and for `aria-labelledby`.
    pub(super) id: &'a str,
    /// Its name.
    pub(super) title: &'a str,
    /// What it shows, in a sentence.
    pub(super) description: &'a str,
}

/// One line of a plot of counts, with the area below it if it is `filled`.
pub(super) struct Line<'a> {
    /// The class of its path.
    pub(super) class: &'a str,
    /// Per bucket.
    pub(super) values: &'a [u64],
    /// Whether it stands on an area.
    pub(super) filled: bool,
}

impl Axis {
    /// The axis of a run: a tick every 1, 2, 5 … of the unit in which the run is best told.
    pub(super) fn of(result: &RunResult) -> Self {
        let duration_ms = result.duration_ms.max(1);
        Self { duration_ms, bucket_ms: result.bucket_ms.max(1), ticks: ticks(duration_ms) }
    }

    /// Where a time lies, in per cent of the width.
    fn at(&self, ms: u64) -> f64 {
        ms.min(self.duration_ms) as f64 * 100.0 / self.duration_ms as f64
    }

    /// Where a time lies, in buckets.
    fn place(&self, ms: u64) -> f64 {
        ms.min(self.duration_ms) as f64 / self.bucket_ms as f64
    }

    /// Width of the inner drawing, in buckets.
    fn buckets(&self) -> f64 {
        self.duration_ms as f64 / self.bucket_ms as f64
    }

    /// Labels below or above the plots.
    pub(super) fn labels(&self) -> Markup {
        html! {
            svg.axis width="100%" height="22" aria-hidden="true" {
                @for tick in &self.ticks {
                    @let x = self.at(tick.at_ms);
                    g.tick.minor[tick.minor] {
                        line x1=(per_cent(x)) x2=(per_cent(x)) y1="0" y2="4" {}
                        text x=(per_cent(x)) y="17" text-anchor=(anchor(x)) { (tick.label) }
                    }
                }
            }
        }
    }

    /// A row of bands of one class, `fault` or `alarm`: from, to.
    pub(super) fn bands(&self, class: &str, bands: &[(u64, u64)], words: &Words<'_>) -> Markup {
        let inside = html! {
            line.rail x1="0" x2="100%" y1="50%" y2="50%" {}
            (self.inner(0.0, &html! {
                @for (from, to) in bands { (self.band(class, *from, *to, (10.0, 80.0))) }
            }))
        };
        plot(BAND_PX, "bands", words, &inside)
    }

    /// A band; its outline keeps an instant, or a minute within a week, visible.
    fn band(&self, class: &str, from_ms: u64, to_ms: u64, (y, height): (f64, f64)) -> Markup {
        let (from, to) = (self.place(from_ms), self.place(to_ms));
        html! { rect class=(class) x=(fine(from)) y=(number(y)) width=(fine(to - from)) height=(number(height)) {} }
    }

    /// A service's share of requests served, per bucket; what is missing to all is filled.
    pub(super) fn success(&self, result: &RunResult, service: &ServiceResult, words: &Words<'_>) -> Markup {
        let heights = bridged(&success_heights(service));
        let inside = html! {
            (self.backdrop(result))
            (self.inner(3.0, &html! {
                path.served d=(area(&heights, 100.0)) {}
                path.lost d=(area(&heights, 0.0)) {}
                path.line-served d=(steps(&heights)) {}
            }))
            (self.edges(result))
            line.cursor y1="0" y2="100%" {}
        };
        plot(STRIP_PX, "success", words, &inside)
    }

    /// How a service's requests were served, as shares on top of each other: by KMS, from a cache, by a held key, not at
    /// all. A cache that runs out shows as its share that shrinks.
    pub(super) fn parts(&self, result: &RunResult, service: &ServiceResult, words: &Words<'_>) -> Markup {
        let buckets = service.ok.len().max(service.failed.len());
        let at = |series: &[u64], bucket: usize| series.get(bucket).copied().unwrap_or(0) as f64;
        // Shares of a bucket, from the bottom: held key, cache, KMS; what is left above failed.
        let level = |parts: usize| -> Vec<Option<f64>> {
            let heights: Vec<Option<f64>> = (0..buckets)
                .map(|bucket| {
                    let (ok, failed) = (at(&service.ok, bucket), at(&service.failed, bucket));
                    let (held, cached) = (at(&service.held, bucket), at(&service.cached, bucket));
                    let served = [held, held + cached, ok].get(parts).copied().unwrap_or(ok);
                    let all = ok + failed;
                    (all > 0.0).then(|| (100.0 - served * 100.0 / all).clamp(0.0, 100.0))
                })
                .collect();
            bridged(&heights)
        };
        let (held, cached, ok) = (level(0), level(1), level(2));
        let inside = html! {
            (self.backdrop(result))
            (self.inner(0.0, &html! {
                // Each covers the one before it from the bottom up.
                path.part-failed d=(area(&ok, 0.0)) {}
                path.part-kms d=(area(&ok, 100.0)) {}
                path.part-cache d=(area(&cached, 100.0)) {}
                path.part-held d=(area(&held, 100.0)) {}
            }))
            (self.edges(result))
            line.cursor y1="0" y2="100%" {}
        };
        plot(COUNT_PX, "parts", words, &inside)
    }

    /// Percentiles of KMS's waiting, per bucket, under its patience.
    pub(super) fn latency(&self, result: &RunResult, scale: &Scale, words: &Words<'_>) -> Markup {
        let xks = &result.xks;
        let limit = scale.height(xks.patience_ms as f64);
        let inside = html! {
            (self.backdrop(result))
            (scale.lines())
            line.limit x1="0" x2="100%" y1=(per_cent(limit)) y2=(per_cent(limit)) {}
            (self.inner(0.0, &html! {
                path.line-p99 d=(steps(&scale.heights(&xks.p99_ms))) {}
                path.line-p90 d=(steps(&scale.heights(&xks.p90_ms))) {}
                path.line-p50 d=(steps(&scale.heights(&xks.p50_ms))) {}
            }))
            (self.edges(result))
            text.limit-label x="100%" dx="-6" y=(per_cent(limit)) dy="-6" text-anchor="end" {
                "KMS gives up: " (count(xks.patience_ms)) " ms"
            }
            line.cursor y1="0" y2="100%" {}
        };
        plot(LATENCY_PX, "latency", words, &inside)
    }

    /// Calls of the proxy per while, per bucket: retries and refills show as hills.
    pub(super) fn load(&self, result: &RunResult, load: &Load, words: &Words<'_>) -> Markup {
        let heights = load.scale.heights(&load.values);
        let inside = html! {
            (self.backdrop(result))
            (load.scale.lines())
            (self.inner(0.0, &html! {
                path.calls d=(area(&heights, 100.0)) {}
                path.line-calls d=(steps(&heights)) {}
            }))
            (self.edges(result))
            line.cursor y1="0" y2="100%" {}
        };
        plot(COUNT_PX, "load", words, &inside)
    }

    /// Counts per bucket, the first line at the back.
    pub(super) fn counts(
        &self,
        result: &RunResult,
        scale: &Scale,
        lines: &[Line<'_>],
        words: &Words<'_>,
    ) -> Markup {
        let drawn = lines.iter().map(|line| {
            let values: Vec<_> = line.values.iter().map(|value| Some(*value as f64)).collect();
            (line, scale.heights(&values))
        });
        let inside = html! {
            (self.backdrop(result))
            (scale.lines())
            (self.inner(0.0, &html! {
                @for (line, heights) in drawn {
                    @if line.filled { path class=(format!("area-{}", line.class)) d=(area(&heights, 100.0)) {} }
                    path class=(format!("line-{}", line.class)) d=(steps(&heights)) {}
                }
            }))
            (self.edges(result))
            line.cursor y1="0" y2="100%" {}
        };
        plot(COUNT_PX, "counts", words, &inside)
    }

    /// The proxy's load, in the unit in which it is at least one: `0.2 per second` is hard to picture.
    pub(super) fn load_series(&self, result: &RunResult) -> Load {
        let mut from = 0_u64;
        let per_ms: Vec<f64> = result
            .xks
            .per_bucket
            .iter()
            .map(|calls| {
                let to = from.saturating_add(self.bucket_ms);
                // The end of the run may cut the last bucket short.
                let width = to.min(self.duration_ms).saturating_sub(from);
                from = to;
                *calls as f64 / if width == 0 { self.bucket_ms } else { width } as f64
            })
            .collect();
        let most = per_ms.iter().copied().fold(0.0, f64::max);
        let (unit_ms, unit, short) = [(1_000, "second", "/s"), (60_000, "minute", "/min")]
            .into_iter()
            .find(|(unit_ms, ..)| most * f64::from(*unit_ms) >= 1.0)
            .unwrap_or((3_600_000, "hour", "/h"));
        let most = most * f64::from(unit_ms);
        let values = per_ms.into_iter().map(|rate| Some(rate * f64::from(unit_ms))).collect();
        Load { unit_ms, unit, short, most, values, scale: Scale::up_to(most) }
    }

    /// A drawing one unit wide per bucket and 100 high, stretched over the plot. `air` above and below keeps a line along
    /// the edge from losing half its width; it must be zero where a line is read against the scale.
    fn inner(&self, air: f64, content: &Markup) -> Markup {
        let view = format!("0 {} {} {}", -air, self.buckets(), 100.0 + 2.0 * air);
        html! {
            svg.time width="100%" height="100%" viewBox=(view) preserveAspectRatio="none" { (content) }
        }
    }

    fn backdrop(&self, result: &RunResult) -> Markup {
        html! {
            rect.paper x="0" y="0" width="100%" height="100%" {}
            (self.inner(0.0, &html! {
                @for band in &result.faults { (self.band("band", band.from_ms, band.to_ms, (0.0, 100.0))) }
            }))
            g.grids {
                @for tick in &self.ticks {
                    @let x = per_cent(self.at(tick.at_ms));
                    line.grid.minor[tick.minor] x1=(x) x2=(x) y1="0" y2="100%" {}
                }
            }
        }
    }

    fn edges(&self, result: &RunResult) -> Markup {
        // Hundreds of short faults would draw a fence in front of the data.
        if result.faults.len() > 12 {
            return Markup::default();
        }
        self.inner(
            0.0,
            &html! {
                @for band in &result.faults {
                    @for edge in [band.from_ms, band.to_ms] {
                        @let x = fine(self.place(edge));
                        line.edge x1=(x) x2=(x) y1="0" y2="100" {}
                    }
                }
            },
        )
    }
}

/// Faults as bands.
pub(super) fn spans(bands: &[&FaultBand]) -> Vec<(u64, u64)> {
    bands.iter().map(|band| (band.from_ms, band.to_ms)).collect()
}

/// A vertical scale from zero.
pub(super) struct Scale {
    top: f64,
    step: f64,
}

impl Scale {
    /// Up to a little above `largest`, with three to five ticks.
    pub(super) fn up_to(largest: f64) -> Self {
        let largest = if largest.is_finite() { largest.max(1.0) } else { 1.0 };
        let mut step = 1.0;
        for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
            if largest / step <= 4.0 {
                break;
            }
            step *= factor;
        }
        Self { top: largest * 1.08, step }
    }

    /// The scale of the latency plot: the patience is always in sight.
    pub(super) fn latency(result: &RunResult) -> Self {
        let series = result.xks.p99_ms.iter().chain(&result.xks.p50_ms).flatten().copied();
        let largest = series.filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self::up_to(largest.max(result.xks.patience_ms as f64 * 1.1))
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..).map(|index| f64::from(index) * self.step).take_while(|value| *value <= self.top)
    }

    /// From the top, in per cent.
    fn height(&self, value: f64) -> f64 {
        ((1.0 - value / self.top) * 100.0).clamp(0.0, 100.0)
    }

    fn heights(&self, values: &[Option<f64>]) -> Vec<Option<f64>> {
        values
            .iter()
            .map(|value| value.filter(|value| value.is_finite()).map(|value| self.height(value)))
            .collect()
    }

    fn lines(&self) -> Markup {
        html! {
            @for value in self.ticks() {
                @let y = per_cent(self.height(value));
                line.grid x1="0" x2="100%" y1=(y) y2=(y) {}
            }
        }
    }

    /// Labels left of the latency plot.
    pub(super) fn latency_labels(&self) -> Markup {
        self.labels(LATENCY_PX, " ms")
    }

    /// Labels left of a plot of counts.
    pub(super) fn count_labels(&self) -> Markup {
        self.labels(COUNT_PX, "")
    }

    fn labels(&self, height: u32, unit: &str) -> Markup {
        // Where the plot is low, only the highest tick and zero have room.
        let last = self.ticks().last().unwrap_or(0.0);
        let all = height >= 100;
        html! {
            svg.gutter width="100%" height=(height) aria-hidden="true" {
                @for value in self.ticks().filter(|value| all || *value == 0.0 || *value == last) {
                    @let y = self.height(value) / 100.0 * f64::from(height);
                    text x="100%" dx="-6" y=(format!("{:.1}", (y + 4.0).clamp(10.0, f64::from(height) - 1.0)))
                        text-anchor="end" { (count(value as u64)) @if value > 0.0 { (unit) } }
                }
            }
        }
    }
}

/// The proxy's load over time.
pub(super) struct Load {
    /// Milliseconds per unit.
    pub(super) unit_ms: u32,
    /// `second`, `minute` or `hour`.
    pub(super) unit: &'static str,
    short: &'static str,
    /// The most calls per unit in any bucket.
    pub(super) most: f64,
    values: Vec<Option<f64>>,
    scale: Scale,
}

impl Load {
    /// Labels left of the load plot.
    pub(super) fn labels(&self) -> Markup {
        self.scale.labels(COUNT_PX, self.short)
    }
}

/// Labels left of a success strip.
pub(super) fn success_labels() -> Markup {
    share_labels(STRIP_PX)
}

/// Labels left of a plot of how requests were served.
pub(super) fn part_labels() -> Markup {
    share_labels(COUNT_PX)
}

fn share_labels(height: u32) -> Markup {
    html! {
        svg.gutter width="100%" height=(height) aria-hidden="true" {
            text x="100%" dx="-6" y="10" text-anchor="end" { "100 %" }
            text x="100%" dx="-6" y=(height - 1) text-anchor="end" { "0" }
        }
    }
}

fn plot(height: u32, kind: &str, words: &Words<'_>, inside: &Markup) -> Markup {
    let (title, description) = (format!("{}-title", words.id), format!("{}-desc", words.id));
    html! {
        svg.plot.(kind) id=(words.id) width="100%" height=(height) role="img"
            aria-labelledby=(title) aria-describedby=(description) {
            title id=(title) { (words.title) }
            desc id=(description) { (words.description) }
            (inside)
        }
    }
}

/// What the latency plot shows, in a sentence.
pub(super) fn describe_latency(result: &RunResult) -> String {
    let peak = |series: &[Option<f64>]| {
        series
            .iter()
            .enumerate()
            .filter_map(|(bucket, value)| {
                value.filter(|value| value.is_finite()).map(|value| (bucket, value))
            })
            .fold(None, |best: Option<(usize, f64)>, next| match best {
                Some(best) if best.1 >= next.1 => Some(best),
                _ => Some(next),
            })
    };
    match peak(&result.xks.p99_ms) {
        None => "No calls.".to_owned(),
        Some((bucket, value)) => format!(
            "The 99th percentile peaks at {} about {} into the run; KMS gives up after {} ms.",
            latency(value),
            duration((bucket as u64).saturating_mul(result.bucket_ms)),
            result.xks.patience_ms
        ),
    }
}

/// Success per bucket as a height from the top, 0 to 100; `None` where nothing was asked.
fn success_heights(service: &ServiceResult) -> Vec<Option<f64>> {
    (0..service.ok.len().max(service.failed.len()))
        .map(|bucket| {
            let ok = service.ok.get(bucket).copied().unwrap_or(0);
            let failed = service.failed.get(bucket).copied().unwrap_or(0);
            let share = failed as f64 * 100.0 / (ok as f64 + failed as f64);
            match (ok, failed) {
                (0, 0) => None,
                (_, 0) => Some(0.0),
                (0, _) => Some(100.0),
                _ => Some(share.clamp(LEAST_DENT, 100.0 - LEAST_DENT)),
            }
        })
        .collect()
}

/// Short silences, up to a twentieth of the run, drawn as what was last seen: a service that is asked every few seconds
/// has a state in between. Longer ones stay empty.
fn bridged(heights: &[Option<f64>]) -> Vec<Option<f64>> {
    let longest = heights.len() / 20;
    let mut bridged = heights.to_vec();
    let mut last: Option<(usize, f64)> = None;
    for (bucket, height) in heights.iter().enumerate() {
        let Some(height) = height else { continue };
        if let Some((from, seen)) = last
            && bucket - from - 1 <= longest
        {
            bridged[from + 1..bucket].fill(Some(seen));
        }
        last = Some((bucket, *height));
    }
    if let Some((from, seen)) = last
        && heights.len() - from - 1 <= longest
    {
        bridged[from + 1..].fill(Some(seen));
    }
    bridged
}

/// Runs of buckets that have a value: `(first bucket, heights)`.
fn runs(heights: &[Option<f64>]) -> Vec<(usize, Vec<f64>)> {
    let mut runs: Vec<(usize, Vec<f64>)> = Vec::new();
    let mut open = false;
    for (bucket, height) in heights.iter().enumerate() {
        match (height.filter(|height| height.is_finite()), runs.last_mut()) {
            (Some(height), Some((_, run))) if open => run.push(height),
            (Some(height), _) => {
                runs.push((bucket, vec![height]));
                open = true;
            }
            (None, _) => open = false,
        }
    }
    runs
}

/// A line of steps, one per bucket: a bucket is a count over a while, not a point.
fn steps(heights: &[Option<f64>]) -> String {
    let mut path = String::new();
    for (from, run) in runs(heights) {
        let _ = write!(path, "M{from} {}", number(run[0]));
        climb(&mut path, from, &run);
    }
    path
}

/// The area between the steps and a base line.
fn area(heights: &[Option<f64>], base: f64) -> String {
    let mut path = String::new();
    for (from, run) in runs(heights) {
        let _ = write!(path, "M{from} {}V{}", number(base), number(run[0]));
        climb(&mut path, from, &run);
        let _ = write!(path, "V{}Z", number(base));
    }
    path
}

fn climb(path: &mut String, from: usize, run: &[f64]) {
    for (offset, height) in run.iter().enumerate() {
        let next = run.get(offset + 1);
        if next.map(|next| number(*next)) == Some(number(*height)) {
            continue; // One stroke for a level stretch.
        }
        let _ = write!(path, "H{}", from + offset + 1);
        if let Some(next) = next {
            let _ = write!(path, "V{}", number(*next));
        }
    }
}

/// One decimal, and none where it is zero.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Three decimals at most: a place within a bucket.
fn fine(value: f64) -> String {
    let text = format!("{:.3}", if value.is_finite() { value } else { 0.0 });
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) fn per_cent(value: f64) -> String {
    format!("{:.3}%", if value.is_finite() { value } else { 0.0 })
}

fn anchor(x: f64) -> &'static str {
    if x < 3.0 {
        "start"
    } else if x > 97.0 {
        "end"
    } else {
        "middle"
    }
}

/// At most eleven ticks at round times, and those that a narrow page leaves out.
fn ticks(duration_ms: u64) -> Vec<Tick> {
    const SECOND: u64 = 1000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const STEPS: [u64; 33] = [
        1,
        2,
        5,
        10,
        20,
        50,
        100,
        200,
        500,
        SECOND,
        2 * SECOND,
        5 * SECOND,
        10 * SECOND,
        15 * SECOND,
        30 * SECOND,
        MINUTE,
        2 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        15 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
        3 * HOUR,
        6 * HOUR,
        12 * HOUR,
        DAY,
        2 * DAY,
        5 * DAY,
        10 * DAY,
        30 * DAY,
        100 * DAY,
        365 * DAY,
    ];
    let step =
        STEPS.into_iter().find(|step| duration_ms / step <= 10).unwrap_or_else(|| duration_ms.div_ceil(10));
    let (unit, name) = match step {
        ..SECOND => (1, "ms"),
        SECOND..MINUTE => (SECOND, "s"),
        MINUTE..HOUR => (MINUTE, "min"),
        HOUR..DAY => (HOUR, "h"),
        _ => (DAY, "d"),
    };
    let many = duration_ms / step >= 6;
    (0..=duration_ms / step)
        .map(|index| Tick {
            at_ms: index * step,
            label: if index == 0 { "0".to_owned() } else { format!("{} {name}", index * step / unit) },
            minor: many && index % 2 == 1,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::PhaseResult;

    #[test]
    fn ticks_are_few_and_in_the_unit_of_the_horizon() {
        for (duration_ms, last) in [
            (90_000, "90 s"),
            (600_000, "10 min"),
            (8 * 3_600_000, "8 h"),
            (8 * 86_400_000, "8 d"),
            (250, "250 ms"),
            (1, "1 ms"),
        ] {
            let ticks = ticks(duration_ms);
            assert!((2..=11).contains(&ticks.len()), "{duration_ms}: {}", ticks.len());
            if duration_ms != 250 {
                assert_eq!(ticks.last().unwrap().label, last);
            }
        }
    }

    #[test]
    fn gaps_and_level_stretches_make_short_paths() {
        let heights = [Some(0.0), Some(0.0), Some(50.0), None, Some(f64::NAN), Some(100.0)];
        assert_eq!(steps(&heights), "M0 0H2V50H3M5 100H6");
        assert_eq!(area(&heights, 100.0), "M0 100V0H2V50H3V100ZM5 100V100H6V100Z");
    }

    #[test]
    fn short_silences_are_bridged_and_long_ones_are_not() {
        let mut heights = vec![None; 60];
        (heights[0], heights[4], heights[9]) = (Some(1.0), Some(2.0), Some(3.0));
        let bridged = bridged(&heights);
        assert_eq!(
            bridged[..10],
            [Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(2.0), None, None, None, None, Some(3.0)]
        );
        assert_eq!(bridged[10..], [None; 50]);
    }

    #[test]
    fn a_single_failure_among_thousands_is_seen_and_a_single_success_too() {
        let service = |ok, failed| {
            let mut service = ServiceResult {
                name: String::new(),
                title: String::new(),
                represents: 1,
                requests: 0,
                failures: 0,
                from_cache: 0,
                from_held_key: 0,
                kms_calls: 0,
                first_failure_ms: None,
                failed_after_fault_ms: None,
                recovered_ms: None,
                recovered_after_fault_ms: None,
                before_faults: PhaseResult::default(),
                after_faults: PhaseResult::default(),
                amplification: None,
                errors: Vec::new(),
                kept_working: String::new(),
                lasting_damage: String::new(),
                lost: Vec::new(),
                manual: Vec::new(),
                ok: Vec::new(),
                failed: Vec::new(),
                cached: Vec::new(),
                held: Vec::new(),
                retries: Vec::new(),
                exceptions: Vec::new(),
                samples: Vec::new(),
            };
            service.ok.push(ok);
            service.failed.push(failed);
            service
        };
        assert_eq!(success_heights(&service(9999, 1)), [Some(LEAST_DENT)]);
        assert_eq!(success_heights(&service(1, 9999)), [Some(100.0 - LEAST_DENT)]);
        assert_eq!(success_heights(&service(0, 0)), [None]);
    }

    #[test]
    fn scales_have_round_ticks() {
        let ticks = |largest| Scale::up_to(largest).ticks().map(|tick| tick as u64).collect::<Vec<_>>();
        assert_eq!(ticks(275.0), [0, 100, 200]);
        assert_eq!(ticks(1800.0), [0, 500, 1000, 1500]);
        assert_eq!(ticks(0.0), [0, 1]);
        assert_eq!(ticks(f64::NAN), [0, 1]);
        assert_eq!(Scale::up_to(f64::INFINITY).top, 1.08);
    }
}
