//! A request's way through: find its route, choose a replica, carry it over, bring the answer back.

mod account;
mod body;
mod carry;
mod forward;
mod reply;
mod service;
mod tunnel;
mod websocket;

pub(crate) use forward::clean_trailers;
pub(crate) use reply::Refusal;
pub(crate) use service::handle;

/// Whatever head a client sends, a replica sees one request, framed once, for one host, and no
/// claim of the client about where it comes from. The first byte chooses framing and trust.
#[cfg(any(test, fuzzing))]
pub fn fuzz_request(data: &[u8]) {
    forward::fuzz(data);
}

/// Frames end at the same places in whatever pieces they come.
#[cfg(any(test, fuzzing))]
pub fn fuzz_websocket(data: &[u8]) {
    use websocket::FrameTracker;

    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let mut whole = FrameTracker::default();
    whole.advance(bytes);
    let mut pieces = FrameTracker::default();
    for piece in bytes.chunks(usize::from(step).max(1)) {
        pieces.advance(piece);
    }
    let mut steps = FrameTracker::default();
    let mut at = 0;
    while at < bytes.len() {
        let used = steps.advance_to_boundary(&bytes[at..]);
        assert!(used > 0 && at + used <= bytes.len());
        at += used;
        assert!(steps.at_boundary() || at == bytes.len());
    }
    let state = |tracker: &FrameTracker| (tracker.at_boundary(), tracker.closed());
    assert_eq!(state(&whole), state(&pieces));
    assert_eq!(state(&whole), state(&steps));
}
