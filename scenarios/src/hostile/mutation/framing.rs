//! Requests whose end is told in legal, doubtful and forbidden ways (RFC 9112), signed as they should be.

use super::super::case::{Case, Expected, Operation, Target};
use super::super::finding::FindingKind;
use super::super::framing::{Framing, Nature};
use super::{AUTHENTICATION, INVALID_PATH, Mutation, UNSUPPORTED, VALIDATION, valid};

/// What HTTP itself may say to a request that it cannot or will not read.
const REFUSALS: [u16; 10] = [400, 408, 411, 413, 414, 415, 417, 431, 501, 505];

pub(super) fn mutations() -> Vec<Mutation> {
    let mutations = Framing::HOSTILE.into_iter().map(|(framing, nature)| {
        Mutation::new(move |seeds, random| {
            let operation = Operation::Encrypt;
            let refused = Expected {
                shape: seeds.shape(operation),
                ..Expected::error("RFC 9112", &[VALIDATION, AUTHENTICATION, INVALID_PATH, UNSUPPORTED])
            }
            .http(&REFUSALS)
            .or_close();
            let expected = match nature {
                Nature::Legal => Expected::success("RFC 9112, section 7.1", seeds.shape(operation)),
                Nature::Tolerable => refused.or_success(),
                Nature::Ambiguous => refused.never(FindingKind::RequestSmuggling),
                Nature::Illegal => refused,
                Nature::Incomplete => refused.or_wait(),
            };
            let name = format!("{framing:?}");
            Case { framing, ..valid(seeds, random, Target::Framing, operation, name, expected) }
        })
    });
    mutations.collect()
}
