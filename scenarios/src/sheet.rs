//! The frame of every page that people open: one offline file, in one dress.
//!
//! Place on the map: used by [`report`](crate::report) and by the page of [`sweep`](crate::sweep). A page asks the network for
//! nothing, and its Content-Security-Policy forbids that too: only the page's own style and script, known by their
//! SHA-256, may run, so text of a scenario could not become script even if an escape were forgotten. maud escapes every
//! value.

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The report's style, and what a sweep's tables and charts need besides.
pub(crate) const WHAT_IF_STYLE: &str = concat!(include_str!("report/report.css"), include_str!("sheet.css"));

/// A page but for what it says.
pub(crate) struct Frame<'a> {
    /// What the page is about, for the browser's tab.
    pub(crate) title: &'a str,
    /// What kind of page it is: `XKS outage report`.
    pub(crate) kind: &'a str,
    /// Its style sheet.
    pub(crate) style: &'a str,
    /// Its script, if it has one.
    pub(crate) script: Option<Script<'a>>,
}

/// A script, and what it reads.
pub(crate) struct Script<'a> {
    /// The program.
    pub(crate) code: &'a str,
    /// JSON, safe inside a `script` element.
    pub(crate) series: String,
}

impl Frame<'_> {
    /// The whole page around `main`.
    pub(crate) fn page(&self, main: &Markup) -> String {
        let script_policy = self
            .script
            .as_ref()
            .map_or_else(String::new, |script| format!(" script-src '{}';", source_hash(script.code)));
        let policy = format!(
            "default-src 'none'; style-src '{}';{script_policy} base-uri 'none'; form-action 'none'",
            source_hash(self.style)
        );
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="referrer" content="no-referrer";
                    title { (self.title) " – " (self.kind) }
                    style { (PreEscaped(self.style)) }
                }
                body {
                    main { (main) }
                    footer {
                        p {
                            "A simulation, not a measurement of AWS: the proxy's code is the real one; AWS KMS, its services, "
                            "the network and time are models."
                        }
                    }
                    @if let Some(script) = &self.script {
                        script type="application/json" id="series" { (PreEscaped(&script.series)) }
                        script { (PreEscaped(script.code)) }
                    }
                }
            }
        };
        page.into_string()
    }
}

/// A source as Content-Security-Policy names it: `sha256-…`.
fn source_hash(source: &str) -> String {
    format!(
        "sha256-{}",
        base64::engine::general_purpose::STANDARD.encode(crate::sha256::of(&[source.as_bytes()]))
    )
}
