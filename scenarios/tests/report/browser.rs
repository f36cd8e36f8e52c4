//! The pages as their readers meet them, in a real headless Chromium: they open without a complaint and without the network,
//! answer to pointer and keyboard, bear the dark, a phone and paper, and keep nobody out.
//!
//! Pictures of them are left in the target directory's `tmp/`, to be looked at.

use crate::chromium::Browser;
use crate::{axe, sample};
use scenarios::report::html;
use scenarios::result::RunResult;
use std::path::{Path, PathBuf};
use std::process::Command;

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A page on disk.
fn written(name: &str, page: &str) -> PathBuf {
    let file = scratch().join(format!("browser-{name}.html"));
    std::fs::write(&file, page).unwrap();
    file
}

/// A browser with a report open.
fn opened(name: &str, result: &RunResult) -> Browser {
    let mut browser = Browser::start();
    browser.open(&written(name, &html(result)));
    browser
}

/// The read-out of a plot at the cursor.
fn read_out(browser: &mut Browser, id: &str) -> String {
    browser.text(&format!("document.querySelector('[data-now=\"{id}\"]').textContent"))
}

/// Left edge and width of what is in sight, in buckets.
fn view(browser: &mut Browser) -> (f64, f64) {
    let at = |browser: &mut Browser, field: &str| {
        browser.number(&format!("document.querySelector('#service-0 svg.time').viewBox.baseVal.{field}"))
    };
    (at(browser, "x"), at(browser, "width"))
}

/// The views of all drawings on the time axis: they never differ.
fn assert_all_in_step(browser: &mut Browser) {
    let views = browser.number(
        "new Set([...document.querySelectorAll('svg.time')].map(it => it.viewBox.baseVal.x + ' ' + it.viewBox.baseVal.width)).size",
    );
    assert_eq!(views, 1.0);
}

#[test]
fn every_page_opens_without_a_complaint_and_asks_for_nothing_else() {
    let mut browser = Browser::start();
    for (name, result) in sample::all() {
        let file = written(&format!("opens-{name}"), &html(&result));
        browser.requested();
        browser.open(&file);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
        assert_eq!(browser.requested(), [format!("file://{}", file.display())], "{name}");
        assert_eq!(browser.number("document.querySelectorAll('h1').length"), 1.0, "{name}");
        // Told and not tested: how fast it is hangs on what else the machine does.
        let ms = browser.number("performance.getEntriesByType('navigation')[0].loadEventEnd");
        println!("{name}: opened within {ms:.0} ms");
        assert_eq!(
            browser.number("document.querySelectorAll('.tools button').length"),
            5.0,
            "{name}: no script"
        );
    }
}

#[test]
fn a_complaint_of_a_page_is_heard() {
    let mut browser = Browser::start();
    let page =
        "<!DOCTYPE html><title>x</title><script>console.error('heard'); throw new Error('too')</script>";
    browser.open(&written("complains", page));
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|it| it.contains("heard")), "{complaints:?}");
    assert!(complaints.iter().any(|it| it.contains("too")), "{complaints:?}");
}

#[test]
fn the_pointer_reads_the_values_of_all_charts_at_once() {
    let result = sample::sample();
    let mut browser = opened("hover", &result);
    let (x, y) = browser.middle("#latency");
    browser.mouse("mouseMoved", (x, y), 0.0, 0);
    // The middle of ten minutes in steps of a second.
    assert_eq!(read_out(&mut browser, "time"), "5 min – 5 min 1 s");
    let second = 300;
    let p99 = result.xks.p99_ms[second].unwrap();
    let latency = read_out(&mut browser, "latency");
    assert!(latency.starts_with(&format!("99th {p99:.0} ms, ")), "{latency}");
    let s3 = &result.services[0];
    assert_eq!(s3.ok[second], 0);
    let all = s3.failed[second];
    assert_eq!(read_out(&mut browser, "service-0"), format!("0 % served, {all} of {all} failed"));
    let queue = format!(
        "{} in flight, {} waiting for a core",
        result.queues.in_flight[second], result.queues.waiting[second]
    );
    assert_eq!(read_out(&mut browser, "count-0"), queue);
    let shown = "getComputedStyle(document.querySelector('#latency .cursor')).visibility";
    assert_eq!(browser.text(shown), "visible");
    browser.mouse("mouseMoved", (5.0, y), 0.0, 0);
    assert_eq!(browser.text(shown), "hidden");
}

#[test]
fn wheel_drag_and_buttons_zoom_and_pan_all_charts_together() {
    const CTRL: u32 = 2;
    let mut browser = opened("zoom", &sample::sample());
    let (x, y) = browser.middle("#service-0");
    let whole = view(&mut browser);
    assert_eq!(whole, (0.0, 600.0));
    browser.mouse("mouseWheel", (x, y), -200.0, 0);
    assert_eq!(view(&mut browser), whole, "the wheel alone scrolls the page");
    let (x, y) = browser.middle("#service-0");
    browser.mouse("mouseWheel", (x, y), -200.0, CTRL);
    let (from, width) = view(&mut browser);
    assert!(width < 450.0 && (from + width / 2.0 - 300.0).abs() < 5.0, "around the pointer: {from} {width}");
    assert_all_in_step(&mut browser);

    let press = |browser: &mut Browser, label: &str| {
        let at = browser.middle(&format!(".tools [aria-label='{label}']"));
        browser.mouse("mouseMoved", at, 0.0, 0);
        browser.mouse("mousePressed", at, 0.0, 0);
        browser.mouse("mouseReleased", at, 0.0, 0);
    };
    press(&mut browser, "Later");
    assert!(view(&mut browser).0 > from + 50.0);
    press(&mut browser, "Show the whole run");
    assert_eq!(view(&mut browser), whole);
    press(&mut browser, "Zoom in");
    assert_eq!(view(&mut browser), (150.0, 300.0));
    assert_eq!(browser.text("document.querySelector('.tools span').textContent"), "2 min 30 s to 7 min 30 s");

    // Along the time axis the drawing comes with the pointer.
    let (x, y) = browser.middle(".times .drawing");
    browser.mouse("mousePressed", (x, y), 0.0, 0);
    browser.mouse("mouseMoved", (x + 40.0, y), 0.0, 0);
    browser.mouse("mouseReleased", (x + 40.0, y), 0.0, 0);
    let panned = view(&mut browser);
    assert!(panned.0 < 145.0 && panned.1 == 300.0, "{panned:?}");

    // Across a chart a span is chosen.
    press(&mut browser, "Show the whole run");
    let (x, y) = browser.middle("#load");
    browser.mouse("mousePressed", (x, y), 0.0, 0);
    browser.mouse("mouseMoved", (x + 60.0, y), 0.0, 0);
    browser.mouse("mouseReleased", (x + 60.0, y), 0.0, 0);
    let chosen = view(&mut browser);
    assert!((chosen.0 - 300.0).abs() < 5.0 && (30.0..100.0).contains(&chosen.1), "{chosen:?}");
    assert_all_in_step(&mut browser);
    // What is read is what is under the pointer in the part in sight.
    browser.mouse("mouseMoved", (x, y), 0.0, 0);
    let bucket = (chosen.0 + chosen.1 / 2.0).floor();
    let when = read_out(&mut browser, "time");
    let minutes = (bucket / 60.0).floor();
    assert!(
        when.starts_with(&format!("{minutes} min {} s – ", bucket - minutes * 60.0)),
        "{when}: {chosen:?}"
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_service_unfolds_to_its_caches_its_exceptions_and_single_requests() {
    let mut browser = opened("select", &sample::sample());
    let more = "document.getElementById('service-1-more')";
    assert_eq!(browser.number(&format!("{more}.offsetHeight")), 0.0);
    let at = browser.middle("[data-more='service-1-more'] button");
    browser.mouse("mousePressed", at, 0.0, 0);
    browser.mouse("mouseReleased", at, 0.0, 0);
    assert!(browser.number(&format!("{more}.offsetHeight")) > 100.0);
    let text = browser.text(&format!("{more}.innerText"));
    for part in [
        "How they were served",
        "from a cached key",
        "KMSInvalidStateException",
        "A request that failed (the median of the first 101 such)",
        "wait before the next try",
        "HSM, its queue and the way to it",
        "and 5 further spans",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Each bar begins where the one before it ends.
    let bar = |browser: &mut Browser, row: u32, side: &str| {
        let bar = format!("#service-1-sample-1 tbody tr:nth-child({row}) rect");
        browser.number(&format!("document.querySelector('{bar}').getBoundingClientRect().{side}"))
    };
    for row in 3..=4 {
        let (ends, begins) = (bar(&mut browser, row, "right"), bar(&mut browser, row + 1, "left"));
        assert!((ends - begins).abs() < 3.0, "{row}: {ends} {begins}");
    }
    assert!(bar(&mut browser, 5, "width") > 20.0 * bar(&mut browser, 3, "width"));
    let (x, y) = browser.middle("#service-1-parts");
    browser.mouse("mouseMoved", (x, y), 0.0, 0);
    let read = read_out(&mut browser, "service-1-parts");
    assert!(read.contains("cached key ") && read.contains("failed "), "{read}");
    browser.picture(&scratch().join("report-service.png"));
}

#[test]
fn the_keyboard_alone_does_all_of_it() {
    let mut browser = opened("keyboard", &sample::sample());
    let focus =
        "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent || '')";
    let tab_to = |browser: &mut Browser, start: &str| {
        for _ in 0..60 {
            browser.key("Tab");
            if browser.text(focus).starts_with(start) {
                return;
            }
        }
        panic!("Tab does not lead to {start}");
    };
    tab_to(&mut browser, "Zoom in");
    browser.key("Enter");
    assert_eq!(view(&mut browser), (150.0, 300.0));
    tab_to(&mut browser, "Timeline");
    let outline = browser.text("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "where one is must be seen");
    browser.key("0");
    assert_eq!(view(&mut browser), (0.0, 600.0));
    browser.key("ArrowRight");
    browser.key("ArrowRight");
    assert_eq!(read_out(&mut browser, "time"), "1 s – 2 s");
    let aloud = browser.text("document.getElementById('reading').textContent");
    assert!(aloud.starts_with("1 s – 2 s; S3: ") && aloud.contains("Proxy latency"), "{aloud}");
    assert!(!aloud.contains("How they were served"), "what is folded is not read: {aloud}");
    browser.key("+");
    let (from, width) = view(&mut browser);
    assert!(from <= 1.5 && width == 300.0, "{from} {width}");
    browser.key("End");
    let (from, width) = view(&mut browser);
    assert_eq!(from + width, 600.0, "the part in sight follows the cursor");
    browser.key("Escape");
    assert_eq!(view(&mut browser), (0.0, 600.0));
    tab_to(&mut browser, "S3");
    browser.key(" ");
    assert_eq!(browser.text("document.activeElement.getAttribute('aria-expanded')"), "true");
    assert!(browser.number("document.getElementById('service-0-more').offsetHeight") > 100.0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn nothing_is_wider_than_a_phone_or_a_desk() {
    let mut browser = Browser::start();
    for (name, result) in sample::all() {
        let file = written(&format!("narrow-{name}"), &html(&result));
        browser.open(&file);
        for (width, picture) in [(400, "phone"), (768, "tablet"), (1280, "desk")] {
            browser.size(width, 900);
            browser.rest();
            let wide = browser.number("document.documentElement.scrollWidth");
            assert!(wide <= f64::from(width), "{name}: {wide} px at {width}");
            if name == "sample" {
                browser.picture(&scratch().join(format!("report-{picture}.png")));
            }
        }
    }
}

#[test]
fn dark_is_dark_and_light_is_light() {
    let mut browser = opened("dark", &sample::sample());
    let mut brightness = |colours: &str| {
        browser.media("screen", colours);
        if colours == "dark" {
            browser.size(400, 900);
            browser.picture(&scratch().join("report-dark.png"));
            browser.size(1280, 900);
            browser.picture(&scratch().join("report-dark-desk.png"));
        }
        let sum = |property: &str| {
            format!(
                "getComputedStyle(document.body).{property}.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765"
            )
        };
        (browser.number(&sum("backgroundColor")), browser.number(&sum("color")))
    };
    let (paper, ink) = brightness("light");
    assert!(paper > 0.9 && ink < 0.3, "{paper} {ink}");
    let (paper, ink) = brightness("dark");
    assert!(paper < 0.2 && ink > 0.8, "{paper} {ink}");
}

/// Elements with words that paper does not show, or not whole.
fn lost_on_paper(browser: &mut Browser) -> String {
    browser.text(
        "[...document.querySelectorAll('main *')].filter(it => {
             if (it.closest('.tools, .aim, .now, .unseen, .cursor, .brush, title, desc, thead, script')) return false;
             const own = [...it.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
             if (!own) return false;
             const box = it.getBoundingClientRect();
             return box.width === 0 || box.height === 0 || box.right > 689;
         }).map(it => it.outerHTML.slice(0, 120)).join('\\n')",
    )
}

/// Elements of which paper would show a part only.
fn cut_on_paper(browser: &mut Browser) -> String {
    browser.text(
        "[...document.querySelectorAll('main *:not(svg *)')].filter(it => {
             const style = getComputedStyle(it);
             return style.overflowX !== 'visible' && it.scrollWidth > it.clientWidth + 1 && !it.closest('.unseen, svg');
         }).map(it => it.outerHTML.slice(0, 120)).join('\\n')",
    )
}

/// Leaves the browser on paper: A4 within its margins.
fn assert_whole_on_paper(browser: &mut Browser, name: &str) {
    browser.size(688, 1000);
    browser.media("print", "dark");
    assert_eq!(lost_on_paper(browser), "", "{name}");
    assert_eq!(cut_on_paper(browser), "", "{name}: paper does not scroll");
    let ink = browser.text("getComputedStyle(document.body).backgroundColor");
    assert_eq!(ink, "rgb(255, 255, 255)", "{name}: paper is white, whatever the screen prefers");
}

#[test]
fn paper_loses_nothing() {
    let mut browser = Browser::start();
    for (name, result) in sample::all() {
        browser.open(&written(&format!("paper-{name}"), &html(&result)));
        // Zoomed in and folded, as a reader may have left it.
        browser.evaluate("document.querySelector('.tools button').click()");
        browser.evaluate("window.dispatchEvent(new Event('beforeprint'))");
        if name == "sample" {
            assert_eq!(view(&mut browser), (0.0, 600.0));
        }
        assert_whole_on_paper(&mut browser, name);
        if name == "sample" {
            browser.picture(&scratch().join("report-paper.png"));
        }
        browser.media("screen", "light");
        browser.size(1280, 900);
        let pdf = scratch().join(format!("report-{name}.pdf"));
        browser.print(&pdf);
        assert!(std::fs::read(&pdf).unwrap().starts_with(b"%PDF-"));
    }
}

#[test]
fn nobody_is_kept_out_of_the_report() {
    let mut browser = Browser::start();
    for (name, result) in sample::all() {
        // Hostile text has no words that could be judged.
        if name == "hostile" {
            continue;
        }
        browser.open(&written(&format!("axe-{name}"), &html(&result)));
        for colours in ["light", "dark"] {
            browser.media("screen", colours);
            browser.evaluate(
                "document.querySelectorAll('.pick[aria-expanded=false]').forEach(it => it.click())",
            );
            assert_eq!(axe::findings(&mut browser), Vec::<String>::new(), "{name}, {colours}");
        }
        browser.media("screen", "light");
    }
}

#[test]
fn axe_finds_what_is_wrong() {
    let mut browser = Browser::start();
    let page = "<!DOCTYPE html><html lang=en><title>x</title><main><h1>x</h1><p style='color:#bbb;background:#fff'>pale</p>
        <button></button></main>";
    browser.open(&written("axe-planted", page));
    let findings = axe::findings(&mut browser);
    for rule in ["color-contrast", "button-name"] {
        assert!(findings.iter().any(|finding| finding.starts_with(rule)), "{rule}: {findings:?}");
    }
}

const SLOW_HSM: &str = "title = \"A slow HSM\"
duration_s = 10
[[service]]
kind = \"s3\"
rate_per_s = 10
[[fault]]
kind = \"hsm-slow\"
factor = 10.0
from_s = 2
to_s = 8
";

/// The other pages of the program, each of a small case: a name, the words of the command, and the page that it leaves.
const PAGES: [(&str, &[&str], &str); 5] = [
    (
        "sweep-chart",
        &["sweep", "slow.toml", "--vary", "fault.0.factor=2..60:3", "--slo", "p99_ms=150"],
        "sweep.html",
    ),
    (
        "sweep-map",
        &[
            "sweep",
            "slow.toml",
            "--vary",
            "fault.0.factor=2..60:3",
            "--vary",
            "service.s3.rate_per_s=5,20",
            "--slo",
            "p99_ms=150",
        ],
        "sweep.html",
    ),
    ("compare", &["compare", "slow.toml", "--set", "fault.0.factor=60", "--seeds", "2"], "compare.html"),
    (
        "size",
        &[
            "size",
            "--rate",
            "20",
            "--seconds",
            "5",
            "--hsms-max",
            "2",
            "--proxies-max",
            "2",
            "--sessions-max",
            "8",
        ],
        "size.html",
    ),
    ("budget", &["budget", "slow.toml"], "budget.html"),
];

#[test]
fn nobody_is_kept_out_of_the_other_pages_on_a_desk_a_phone_and_paper() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("slow.toml"), SLOW_HSM).unwrap();
    let mut browser = Browser::start();
    for (name, words, page) in PAGES {
        let seeds: &[&str] = if words[0] == "sweep" || words[0] == "size" { &["--seeds", "1"] } else { &[] };
        let output = Command::new(env!("CARGO_BIN_EXE_xks-sim"))
            .current_dir(directory.path())
            .args(words)
            .args(seeds)
            .args(["--out", name])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let left = directory.path().join(name).join(page);
        let page = written(name, &std::fs::read_to_string(left).unwrap());
        browser.open(&page);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
        for colours in ["light", "dark"] {
            browser.media("screen", colours);
            assert_eq!(axe::findings(&mut browser), Vec::<String>::new(), "{name}, {colours}");
        }
        browser.media("screen", "light");
        browser.picture(&scratch().join(format!("{name}.png")));
        browser.size(400, 900);
        browser.rest();
        assert!(browser.number("document.documentElement.scrollWidth") <= 400.0, "{name}");
        assert_whole_on_paper(&mut browser, name);
        browser.picture(&scratch().join(format!("{name}-paper.png")));
        browser.media("screen", "light");
        browser.size(1280, 900);
    }
}
