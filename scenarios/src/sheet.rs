//! The frame of the pages that answer "what if": one offline file each, in the report's own dress.
//!
//! Place on the map: used by the pages of [`sweep`](crate::sweep) and [`comparison`](crate::comparison). It asks the network for
//! nothing, and its Content-Security-Policy forbids that too; there is no script at all. maud escapes every value.

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

/// The report's style, and what its tables and charts need besides.
const STYLE: &str = concat!(include_str!("report/report.css"), include_str!("sheet.css"));

/// What stands at the head of a page.
pub(crate) struct Head<'a> {
    /// What kind of page it is: `XKS sweep`.
    pub(crate) kicker: &'a str,
    /// Its heading.
    pub(crate) title: &'a str,
    /// Facts in a row below it.
    pub(crate) meta: &'a [String],
}

/// The whole page.
pub(crate) fn page(head: &Head<'_>, body: &Markup) -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy =
        format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (head.title) " – " (head.kicker) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header.top {
                        p.kicker { (head.kicker) }
                        h1 { (head.title) }
                        p.meta { @for fact in head.meta { span { (fact) } } }
                    }
                    (body)
                }
                footer {
                    p {
                        "A simulation, not a measurement of AWS: the proxy's code is the real one; AWS KMS, its services, "
                        "the network and time are models."
                    }
                }
            }
        }
    };
    page.into_string()
}
