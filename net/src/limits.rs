//! Every numeric limit of the front, in one place.
//!
//! Each says what it bounds, its unit by its name, and what happens at the bound. RFC values are cited; the others were
//! chosen so that no conforming gRPC client meets them.

/// Nanoseconds in a second, a millisecond.
pub const SECOND_NS: u64 = 1_000_000_000;
pub const MILLISECOND_NS: u64 = 1_000_000;

/// Largest frame payload that we accept, and the smallest that a peer may ask for (RFC 9113 section 6.5.2). Larger:
/// FRAME_SIZE_ERROR, decided from the frame header.
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 16_384;
/// Largest MAX_FRAME_SIZE that a peer may announce.
pub const FRAME_PAYLOAD_BYTES_LIMIT: u32 = (1 << 24) - 1;
/// Largest frame that we send, whatever the peer accepts: smaller frames share the connection fairly.
pub const FRAME_SENT_BYTES_MAX: u32 = 16_384;

/// Decoded header list, 32 bytes per field included. Above: the request is reset, the block still decoded.
pub const HEADER_LIST_BYTES_MAX: usize = 32 * 1024;
/// Above this the connection ends with ENHANCE_YOUR_CALM.
pub const HEADER_LIST_BYTES_CLOSE: usize = 128 * 1024;
/// Fields in a list; above: as `HEADER_LIST_BYTES_MAX`.
pub const HEADER_COUNT_MAX: usize = 200;
/// Encoded block over all its frames. Above: ENHANCE_YOUR_CALM.
pub const HEADER_BLOCK_BYTES_MAX: usize = HEADER_LIST_BYTES_MAX + 4 * 1024;
/// HPACK dynamic tables, ours and the most that our encoder uses.
pub const HPACK_TABLE_BYTES: usize = 4_096;
/// CONTINUATION frames of one block. Above: ENHANCE_YOUR_CALM.
pub const CONTINUATION_FRAMES_MAX: u32 = 8;
/// Decoded heads kept per connection, and the longest block worth keeping.
pub const HEAD_CACHE_ENTRIES: usize = 8;
pub const HEAD_CACHE_BLOCK_BYTES_MAX: usize = 256;

/// Streams open at once on a connection whatever the configured value. Above: REFUSED_STREAM.
pub const STREAMS_OPEN_MAX: usize = 1 << 17;
/// Ranges of stream ids that a client skipped and that we remember to tell "skipped" from "closed".
pub const SKIPPED_RANGES_MAX: usize = 16;
/// Streams that we closed before the peer had: frames in flight for them are dropped. As many as resets are allowed at
/// once, so that a burst of early answers does not cost an innocent client its connection: a frame for a
/// stream that is forgotten ends it. 16 bytes each.
pub const RESET_STREAMS_REMEMBERED_MAX: usize = 1_000;
pub const RESET_STREAMS_REMEMBERED_NS: u64 = SECOND_NS;

/// Resets received for live streams plus resets that a peer provoked. Empty bucket: ENHANCE_YOUR_CALM.
pub const RESETS_BURST: u32 = 1_000;
pub const RESETS_PER_SECOND: u32 = 33;
/// Malformed requests, refused streams, frames for unknown streams. Empty bucket: ENHANCE_YOUR_CALM.
pub const GLITCHES_BURST: u32 = 1_000;
pub const GLITCHES_PER_SECOND: u32 = 33;
/// Answers to PING, SETTINGS and errors that wait for the peer to read. Above: ENHANCE_YOUR_CALM.
pub const CONTROL_FRAMES_QUEUED_MAX: u32 = 100;
/// Entries of one SETTINGS frame. Above: ENHANCE_YOUR_CALM.
pub const SETTINGS_ENTRIES_MAX: usize = 32;
/// SETTINGS frames: 20 per 10 s. Above: ENHANCE_YOUR_CALM.
pub const SETTINGS_BURST: u32 = 20;
pub const SETTINGS_PER_SECOND: u32 = 2;
/// PRIORITY frames. Above: ENHANCE_YOUR_CALM.
pub const PRIORITIES_BURST: u32 = 1_000;
pub const PRIORITIES_PER_SECOND: u32 = 1_000;
/// DATA, HEADERS and CONTINUATION frames that carry nothing. Above: ENHANCE_YOUR_CALM.
pub const EMPTY_FRAMES_BURST: u32 = 100;
pub const EMPTY_FRAMES_PER_SECOND: u32 = 100;
/// DATA frames below `SMALL_DATA_BYTES` that do not complete a message. Every completed message refills the budget.
/// Spent: ENHANCE_YOUR_CALM.
pub const SMALL_DATA_BYTES: usize = 256;
pub const SMALL_DATA_BUDGET: u32 = 25_600;

/// PINGs closer together than the configured interval that are forgiven, as grpc-go counts them.
pub const PING_STRIKES_MAX: u32 = 2;
/// The interval that is enforced while no stream is open and pings without streams are not permitted (grpc-go's value).
pub const PING_IDLE_INTERVAL_NS: u64 = 2 * 60 * 60 * SECOND_NS;
/// Default of `--grpc-keepalive-min-time`.
pub const PING_INTERVAL_NS: u64 = 5 * SECOND_NS;

/// Window before any SETTINGS (RFC 9113 section 6.9.2), and the largest one.
pub const WINDOW_BYTES_INITIAL: u32 = 65_535;
pub const WINDOW_BYTES_LIMIT: i64 = (1 << 31) - 1;
/// What we let a peer send ahead, per stream and per connection; reopened as data is consumed.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Output that may wait for the socket. Above: DATA stays in the streams' queues, and nothing should be read.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// DATA queued in a stream at which its producer should wait: see `Server::backlog_bytes`.
pub const STREAM_OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Responses queued for want of window in all streams of a connection. Above: further requests wait until some are taken.
pub const QUEUED_BYTES_MAX: usize = 64 << 20;
/// An output buffer that grew beyond this is given back to the allocator once it is empty.
pub const OUTPUT_KEPT_BYTES: usize = 256 << 10;

/// From accept to the end of the connection preface and the first SETTINGS.
pub const PREFACE_NS: u64 = 10 * SECOND_NS;
/// From the first to the last frame of a header block.
pub const HEADER_BLOCK_NS: u64 = 5 * SECOND_NS;
/// Until the peer acknowledges our SETTINGS: SETTINGS_TIMEOUT.
pub const SETTINGS_ACK_NS: u64 = 10 * SECOND_NS;
/// Until a call that takes one message has all of it.
pub const FIRST_MESSAGE_NS: u64 = 30 * SECOND_NS;
/// A connection without streams is closed gracefully.
pub const IDLE_NS: u64 = 5 * 60 * SECOND_NS;
/// A stream with data pending and no progress is reset; a connection that takes nothing from the socket is closed.
pub const STREAM_STALL_NS: u64 = 60 * SECOND_NS;
pub const CONNECTION_STALL_NS: u64 = 120 * SECOND_NS;
/// From the first GOAWAY of a graceful stop to the second one where the peer does not answer the PING between them.
pub const SHUTDOWN_PING_NS: u64 = SECOND_NS;
/// What accepted streams have to finish within after a graceful stop began.
pub const SHUTDOWN_NS: u64 = 10 * SECOND_NS;
/// Deadlines of streams are looked at this often at most, so a stream may live this much longer.
pub const STREAM_TIMER_NS: u64 = 5 * MILLISECOND_NS;

/// Defaults of `--grpc-keepalive-interval` and `--grpc-keepalive-timeout`.
pub const KEEPALIVE_INTERVAL_NS: u64 = 2 * 60 * 60 * SECOND_NS;
pub const KEEPALIVE_TIMEOUT_NS: u64 = 20 * SECOND_NS;

/// Largest request message by default: `--max-request-bytes` plus the 512 KiB that etcd adds.
pub const REQUEST_BYTES_MAX: usize = 1_572_864 + 524_288;
/// Requests of all connections together, from their first byte until they are answered; less where the memory limit is
/// small. Above: refused.
pub const REQUESTS_HELD_BYTES_MAX: usize = 256 << 20;
/// Longest `grpc-message` that we send, before encoding; the rest is cut.
pub const STATUS_MESSAGE_BYTES_MAX: usize = 8 * 1024;
