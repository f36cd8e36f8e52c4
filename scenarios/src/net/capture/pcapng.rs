//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian.
//!
//! Place on the map: the format of [`capture`](super).

use std::time::Duration;

/// Raw IPv4 (the registry of link types, LINKTYPE_RAW).
const LINKTYPE_RAW: u16 = 101;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const OPTION_COMMENT: u16 = 1;
const OPTION_INTERFACE_NAME: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;

/// What a file begins with: a section, and its interfaces. Times are in nanoseconds.
pub(super) fn head(interfaces: &[&str]) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(0x1a2b_3c4d_u32.to_le_bytes());
    section.extend([1, 0, 0, 0]);
    // Its length is not said.
    section.extend(u64::MAX.to_le_bytes());
    let mut file = block(SECTION_HEADER, &section);
    for name in interfaces {
        let mut interface = Vec::new();
        interface.extend(LINKTYPE_RAW.to_le_bytes());
        interface.extend([0; 2]);
        // Packets are whole.
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, OPTION_INTERFACE_NAME, name.as_bytes());
        option(&mut interface, OPTION_TIME_RESOLUTION, &[9]);
        end_of_options(&mut interface);
        file.extend(block(INTERFACE_DESCRIPTION, &interface));
    }
    file
}

/// One packet, sent at a time since the epoch.
pub(super) fn packet(interface: u32, at: Duration, bytes: &[u8], comment: Option<&str>) -> Vec<u8> {
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut body = Vec::with_capacity(bytes.len() + 64);
    body.extend(interface.to_le_bytes());
    // The upper half of the time comes first.
    body.extend(nanoseconds.iter().skip(4));
    body.extend(nanoseconds.iter().take(4));
    body.extend(length);
    body.extend(length);
    padded(&mut body, bytes);
    if let Some(comment) = comment {
        option(&mut body, OPTION_COMMENT, comment.as_bytes());
        end_of_options(&mut body);
    }
    block(ENHANCED_PACKET, &body)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Everything is aligned to 32 bits.
fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
