//! Follows the frames of a WebSocket without changing them, so that a close frame can be put in
//! exactly where one frame ends and the next has not begun.

/// Close, status 1001 (going away), unmasked as a server sends it.
pub(crate) const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

const OPCODE_CLOSE: u8 = 8;

/// Where in a stream of frames we are.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    header: [u8; 14],
    filled: usize,
    payload: u64,
    closed: bool,
}

impl FrameTracker {
    /// Whether everything seen so far is whole frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.filled == 0 && self.payload == 0
    }

    /// Whether a close frame began.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Sees all bytes.
    pub(crate) fn advance(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.advance_to_boundary(rest);
            rest = &rest[used..];
        }
    }

    /// Sees bytes up to the next end of a frame; how many these were. At least one unless there
    /// are none.
    pub(crate) fn advance_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            if self.payload > 0 {
                let skip = self.payload.min((bytes.len() - used) as u64);
                self.payload -= skip;
                used += skip as usize;
            } else {
                self.header[self.filled] = bytes[used];
                self.filled += 1;
                used += 1;
                if self.filled < 2 || self.filled < self.header_length() {
                    continue;
                }
                self.payload = self.payload_length();
                self.closed |= self.header[0] & 0x0f == OPCODE_CLOSE;
                self.filled = 0;
            }
            if self.at_boundary() {
                break;
            }
        }
        used
    }

    fn header_length(&self) -> usize {
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.header[1] & 0x80 != 0 { 4 } else { 0 }
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte))
        };
        match self.header[1] & 0x7f {
            126 => number(&self.header[2..4]),
            127 => number(&self.header[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, mask: bool, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        let flag = if mask { 0x80 } else { 0 };
        match length {
            0..126 => bytes.push(flag | length as u8),
            126..65_536 => {
                bytes.push(flag | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(flag | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if mask {
            bytes.extend_from_slice(&[1, 2, 3, 4]);
        }
        bytes.extend(std::iter::repeat_n(0x88, length));
        bytes
    }

    proptest! {
        #[test]
        fn boundaries_are_where_frames_end_however_the_bytes_come(
            frames in prop::collection::vec((0u8..11, any::<bool>(), prop_oneof![0usize..200, 60_000usize..70_000]), 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut wire = Vec::new();
            let mut ends = vec![0usize];
            for (opcode, mask, length) in &frames {
                wire.extend(frame(*opcode, *mask, *length));
                ends.push(wire.len());
            }
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            places.extend([0, wire.len()]);
            places.sort_unstable();
            let mut tracker = FrameTracker::default();
            for pair in places.windows(2) {
                tracker.advance(&wire[pair[0]..pair[1]]);
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&pair[1]), "at {}", pair[1]);
            }
            prop_assert_eq!(tracker.closed(), frames.iter().any(|(opcode, _, _)| *opcode == OPCODE_CLOSE));
            let mut stepping = FrameTracker::default();
            let (mut place, mut found) = (0, vec![0usize]);
            while place < wire.len() {
                place += stepping.advance_to_boundary(&wire[place..]);
                found.push(place);
            }
            prop_assert_eq!(found, ends);
        }
    }
}
