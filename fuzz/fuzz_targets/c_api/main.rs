//! The C functions, called in any order on a few handles, also from inside callbacks, against what the header promises.
//!
//! The input is a list of calls, and a second list of which each callback on this thread makes one. A slot without a handle
//! is a NULL. What must hold: every status is one that the call documents and the state of the handle explains; at every
//! moment a writer's accepted messages are sent, abandoned or queued; no message comes out of order or changed, and none
//! twice that the writer does not count as sent again; what was sent has come or is suspected lost; what is acknowledged has
//! come; nothing calls back after a stop or a free; no call takes longer than its time;
//! no descriptor is left open.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use support::{Descriptors, choose};
use udsipc as _; // its symbols

mod header;
use header::*;

const WRITERS: usize = 3;
const READERS: usize = 2;
const OPTIONS: usize = 2;
/// Calls of one input, threads that it may start, and callbacks within callbacks.
const MOST_CALLS: usize = 64;
const MOST_STARTS: u32 = 3;
const DEEPEST: u32 = 3;
/// What a machine that is busy with other things may add to a promised time: on one that is, a sleep of two milliseconds
/// has been seen to take twelve seconds.
const SLACK: Duration = Duration::from_secs(30);
const ENOUGH_MS: u64 = 60_000;
/// The default of the option: how long the free of a running handle drains.
const LINGER_MS: u64 = 1_000;
/// A message says which writer made it, and which of its messages it is.
const HEAD: usize = 6;

/// The first byte says which messages fail, the rest is calls. One whose highest bit is set is for callbacks.
#[derive(Debug)]
struct Scenario {
    calls: Vec<Call>,
    in_callbacks: Vec<Call>,
    /// Messages whose number this divides fail; 0: none.
    fails_each: u8,
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Scenario> {
        let (mut calls, mut in_callbacks, fails_each) = (Vec::new(), Vec::new(), u8::arbitrary(from)?);
        while !from.is_empty() && calls.len() < MOST_CALLS {
            let number = u8::arbitrary(from)?;
            let call = Call::choose(number & 0x7f, from)?;
            if number < 0x80 { calls.push(call) } else { in_callbacks.push(call) }
        }
        Ok(Scenario { calls, in_callbacks, fails_each })
    }
}

#[derive(Debug, Clone, Copy)]
enum Call {
    WriterOptionsNew(u8),
    WriterOptionsFree(u8),
    WriterOptionsSet(u8, WriterOption),
    ReaderOptionsNew(u8),
    ReaderOptionsFree(u8),
    ReaderOptionsSet(u8, ReaderOption),

    WriterNew {
        slot: u8,
        options: u8,
        place: Place,
    },
    WriterStart(u8),
    WriterStop(u8, u64),
    WriterFree(u8),
    WriterFlush(u8, u64),
    WriterDispatch(u8, u64),
    WriterMetrics(u8, u8),
    WriterLook(u8),
    Write(u8, usize),
    WriteNothing(u8, u8),
    WriteTimeout(u8, usize, u64),
    WriteMany {
        slot: u8,
        count: u8,
        len: usize,
        broken_at: u8,
    },

    ReaderNew {
        slot: u8,
        options: u8,
        place: Place,
        kind: Kind,
    },
    ReaderStart(u8),
    ReaderStop(u8, u64),
    ReaderFree(u8),
    ReaderDispatch(u8, u64),
    ReaderMetrics(u8, u8),
    ReaderLook(u8, u8),

    /// A reader of another kind, at the first place: listens, takes some bytes of one connection and closes it, ends.
    StrangerListens,
    StrangerTakes(u16),
    StrangerLeaves,

    Text(i32),
    Path(Place, u8),
    Notify(u8),
}

#[derive(Debug, Clone, Copy)]
enum WriterOption {
    MaxBufferedWrites(u32),
    MaxBufferedBytes(u16),
    MaxMessageSize(u16),
    WriteTimeout(u8),
    DialTimeout(u8),
    MaxBackoff(u8),
    WriteBufferSize(u32),
    MaxAttempts(u8),
    DrainUntilDeadline(bool),
    ErrorCallback(bool),
    Linger(u8),
    Acknowledge(u8),
    Redeliver(bool),
}

#[derive(Debug, Clone, Copy)]
enum ReaderOption {
    MaxMessageSize(u16),
    InactivityTimeout(u8),
    MaxAcceptErrors(u8),
    ReadBufferSize(u32),
    MaxHandlerThreads(u16),
    MaxConnections(u8),
    MaxSharedMemory(u32),
    SocketMode(u16),
    AllowUid(bool),
    AllowGid(bool),
    ListenFdName(u8),
    UseSystemd(bool),
    ErrorCallback(bool),
    Linger(u8),
    CallbackStackSize(u32),
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Abstract,
    File,
    Empty,
    TooLong,
    Directory,
    Null,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Each,
    Batched,
    NoCallback,
    NoOut,
}

impl Call {
    fn choose(number: u8, from: &mut Unstructured<'_>) -> Result<Call> {
        let slot = u8::arbitrary(from)?;
        choose!(number;
            Call::WriterOptionsNew(slot),
            Call::WriterOptionsFree(slot),
            Call::WriterOptionsSet(slot, WriterOption::choose(from)?),
            Call::ReaderOptionsNew(slot),
            Call::ReaderOptionsFree(slot),
            Call::ReaderOptionsSet(slot, ReaderOption::choose(from)?),
            Call::WriterNew { slot, options: u8::arbitrary(from)?, place: place(from)? },
            Call::WriterStart(slot),
            Call::WriterStop(slot, wait(from)?),
            Call::WriterFree(slot),
            Call::WriterFlush(slot, wait(from)?),
            Call::WriterDispatch(slot, wait(from)?),
            Call::WriterMetrics(slot, u8::arbitrary(from)?),
            Call::WriterLook(slot),
            Call::Write(slot, len(from)?),
            Call::WriteNothing(slot, u8::arbitrary(from)?),
            Call::WriteTimeout(slot, len(from)?, wait(from)?),
            Call::WriteMany {
                slot,
                count: u8::arbitrary(from)?,
                len: len(from)?,
                broken_at: u8::arbitrary(from)?,
            },
            Call::ReaderNew { slot, options: u8::arbitrary(from)?, place: place(from)?, kind: kind(from)? },
            Call::ReaderStart(slot),
            Call::ReaderStop(slot, wait(from)?),
            Call::ReaderFree(slot),
            Call::ReaderDispatch(slot, wait(from)?),
            Call::ReaderMetrics(slot, u8::arbitrary(from)?),
            Call::ReaderLook(slot, u8::arbitrary(from)?),
            Call::StrangerListens,
            Call::StrangerTakes(u16::arbitrary(from)?),
            Call::StrangerLeaves,
            Call::Text(i8::arbitrary(from)?.into()),
            Call::Path(place(from)?, u8::arbitrary(from)?),
            Call::Notify(slot),
        )
    }
}

impl WriterOption {
    fn choose(from: &mut Unstructured<'_>) -> Result<WriterOption> {
        choose!(u8::arbitrary(from)?;
            WriterOption::MaxBufferedWrites(u32::from(u8::arbitrary(from)? % 8)),
            WriterOption::MaxBufferedWrites(u32::arbitrary(from)?),
            WriterOption::MaxBufferedBytes(u16::arbitrary(from)?),
            WriterOption::MaxMessageSize(u16::arbitrary(from)?),
            WriterOption::WriteTimeout(u8::arbitrary(from)?),
            WriterOption::DialTimeout(u8::arbitrary(from)?),
            WriterOption::MaxBackoff(u8::arbitrary(from)?),
            WriterOption::WriteBufferSize(u16::arbitrary(from)?.into()),
            WriterOption::WriteBufferSize(u32::arbitrary(from)?),
            WriterOption::MaxAttempts(u8::arbitrary(from)?),
            WriterOption::DrainUntilDeadline(bool::arbitrary(from)?),
            WriterOption::ErrorCallback(bool::arbitrary(from)?),
            WriterOption::Linger(u8::arbitrary(from)?),
            WriterOption::Acknowledge(u8::arbitrary(from)? % 4),
            WriterOption::Redeliver(bool::arbitrary(from)?),
        )
    }
}

impl ReaderOption {
    fn choose(from: &mut Unstructured<'_>) -> Result<ReaderOption> {
        choose!(u8::arbitrary(from)?;
            ReaderOption::MaxMessageSize(u16::arbitrary(from)?),
            ReaderOption::InactivityTimeout(u8::arbitrary(from)?),
            ReaderOption::MaxAcceptErrors(u8::arbitrary(from)?),
            ReaderOption::ReadBufferSize(u32::arbitrary(from)?),
            ReaderOption::MaxHandlerThreads(u16::from(u8::arbitrary(from)? % 4)),
            ReaderOption::MaxHandlerThreads(u16::arbitrary(from)?),
            ReaderOption::MaxConnections(u8::arbitrary(from)? % 4),
            ReaderOption::MaxSharedMemory(u32::arbitrary(from)?),
            ReaderOption::SocketMode(u16::arbitrary(from)?),
            ReaderOption::AllowUid(bool::arbitrary(from)?),
            ReaderOption::AllowGid(bool::arbitrary(from)?),
            ReaderOption::ListenFdName(u8::arbitrary(from)?),
            ReaderOption::UseSystemd(bool::arbitrary(from)?),
            ReaderOption::ErrorCallback(bool::arbitrary(from)?),
            ReaderOption::Linger(u8::arbitrary(from)?),
            ReaderOption::CallbackStackSize(u32::arbitrary(from)?),
        )
    }
}

/// Milliseconds, mostly none: an input that waits is one that runs seldom.
fn wait(from: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u8::arbitrary(from)? {
        0..240 => 0,
        240..255 => 1,
        255 => 3,
    })
}

/// The length of a message. Some are more than a batch, or more than a socket takes.
fn len(from: &mut Unstructured<'_>) -> Result<usize> {
    let byte = usize::from(u8::arbitrary(from)?);
    Ok(HEAD
        + match byte {
            0..128 => byte,
            128..240 => (byte - 128) << 6,
            240.. => (byte - 239) << 14,
        })
}

fn place(from: &mut Unstructured<'_>) -> Result<Place> {
    choose!(u8::arbitrary(from)?;
        Place::Abstract,
        Place::File,
        Place::Abstract,
        Place::Abstract,
        Place::Empty,
        Place::TooLong,
        Place::Directory,
        Place::Null,
    )
}

fn kind(from: &mut Unstructured<'_>) -> Result<Kind> {
    choose!(u8::arbitrary(from)?; Kind::Each, Kind::Batched, Kind::Each, Kind::Batched, Kind::NoCallback, Kind::NoOut)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Nobody,
    Threads,
    Host,
}

/// What is set in the options of a writer, as far as it matters afterwards.
#[derive(Clone, Copy)]
struct Settings {
    limit: u64,
    acknowledge: u8,
    redeliver: bool,
}

const DEFAULTS: Settings = Settings { limit: 10 << 20, acknowledge: 1, redeliver: true };
const REQUIRED: u8 = 2;

struct Writer {
    handle: *mut c_void,
    born: u32,
    place: Place,
    driver: Driver,
    /// What the first stop returned.
    stopped: Option<i32>,
    settings: Settings,
    next: u32,
    accepted: u64,
    dropped: u64,
}

struct Reader {
    handle: *mut c_void,
    born: u32,
    place: Place,
    driver: Driver,
    stopped: Option<i32>,
}

/// What is to be said of a writer when all is over.
struct Account {
    born: u32,
    /// Of a writer that was freed while it ran: accepted, since it drains after the last look at its counters.
    sent: u64,
    suspected_lost: u64,
    redelivered: u64,
    /// All that it sent went to readers that acknowledge: it knows what has become of it, whatever they do.
    knows: bool,
    /// It may have lost messages without being told: to a stranger, or to a reader that died after its own end.
    excused: bool,
}

#[derive(Default)]
struct World {
    writer_options: [Option<(*mut c_void, Settings)>; OPTIONS],
    reader_options: [Option<(*mut c_void, bool)>; OPTIONS],
    writers: [Option<Writer>; WRITERS],
    readers: [Option<Reader>; READERS],
    stranger: Option<UnixListener>,
    /// Handles get numbers, never twice.
    births: u32,
    /// Those that must not call back any more.
    silent: BTreeSet<u32>,
    /// By writer: the messages that have come, with their sequence numbers.
    delivered: BTreeMap<u32, BTreeMap<u32, u64>>,
    /// By writer: those that may come twice, and how often they did.
    repeated: BTreeMap<u32, u64>,
    /// By reader, connection and writer.
    last: BTreeMap<(u32, u64, u32), u32>,
    accounts: Vec<Account>,
    in_callbacks: VecDeque<Call>,
    fails_each: u32,
    starts: u32,
    stranger_was_there: bool,
    /// A reader may refuse what a writer has sent, and writers that have ended by then cannot know.
    choosy: bool,
    /// How many readers went away that may have left something unread.
    deaths: u32,
}

// SAFETY: the pointers are handles of the library, which may be used from any thread.
unsafe impl Send for World {}

/// Locked for bookkeeping only, never during a call of the library.
static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);
static MAIN: LazyLock<ThreadId> = LazyLock::new(|| thread::current().id());
/// How deep in callbacks the main thread is.
static DEPTH: AtomicU32 = AtomicU32::new(0);
static ABSTRACT: LazyLock<String> = LazyLock::new(|| format!("udsipc-fuzz-c-{}", std::process::id()));
static FILE: LazyLock<CString> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("udsipc-fuzz-c-{}", std::process::id())).join("socket");
    CString::new(path.into_os_string().into_encoded_bytes()).expect("no NUL in a path")
});

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().expect("no panic")
}

fuzz_target!(init: support::prepare(), |scenario: Scenario| {
    LazyLock::force(&MAIN);
    let before = Descriptors::open();
    *world() = World {
        in_callbacks: scenario.in_callbacks.into(),
        fails_each: scenario.fails_each.into(),
        ..World::default()
    };
    for call in scenario.calls.iter().take(MOST_CALLS) {
        perform(call);
        check_accounts();
    }
    settle();
    // A stop without time waits only briefly for a thread that is held up, on a busy machine too; the thread closes them.
    let until = Instant::now() + SLACK;
    while Descriptors::open() != before && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Descriptors::open(), before, "descriptors are left open");
});

// ---- calls ----

/// Makes a call and checks its status, and that it kept its time.
#[track_caller]
fn timed(ms: u64, allowed: &[i32], call: impl FnOnce() -> i32) -> i32 {
    let began = Instant::now();
    let status = call();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(ms) + SLACK, "{took:?} instead of {ms} ms");
    expect(status, allowed)
}

#[track_caller]
fn expect(status: i32, allowed: &[i32]) -> i32 {
    assert!(allowed.contains(&status), "status {status} ({}), expected one of {allowed:?}", last_error());
    status
}

fn last_error() -> String {
    let mut buffer = [0_u8; 512];
    // SAFETY: a buffer of the size that is said.
    let needed = unsafe { udsipc_last_error_message(buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = CStr::from_bytes_until_nul(&buffer).expect("always ended by a NUL");
    assert_eq!(text.count_bytes(), needed.min(buffer.len() - 1));
    text.to_string_lossy().into_owned()
}

/// The handle in a slot, and its number; NULL and 0 for none.
fn writer(slot: u8) -> (usize, *mut c_void, u32) {
    let at = usize::from(slot) % WRITERS;
    world().writers[at].as_ref().map_or((at, ptr::null_mut(), 0), |writer| (at, writer.handle, writer.born))
}

fn reader(slot: u8) -> (usize, *mut c_void, u32) {
    let at = usize::from(slot) % READERS;
    world().readers[at].as_ref().map_or((at, ptr::null_mut(), 0), |reader| (at, reader.handle, reader.born))
}

/// Changes the bookkeeping of a writer, unless a callback has freed it meanwhile.
fn with_writer<T>(at: usize, born: u32, change: impl FnOnce(&mut Writer) -> T) -> Option<T> {
    world().writers[at].as_mut().filter(|writer| writer.born == born).map(change)
}

fn with_reader<T>(at: usize, born: u32, change: impl FnOnce(&mut Reader) -> T) -> Option<T> {
    world().readers[at].as_mut().filter(|reader| reader.born == born).map(change)
}

fn is_nested() -> bool {
    DEPTH.load(Ordering::Relaxed) > 0
}

/// What a call on a handle in this state may answer, besides `usual`. NULL answers nothing else.
fn allowed(handle: *mut c_void, usual: &[i32]) -> Vec<i32> {
    if handle.is_null() {
        return vec![NULL_POINTER];
    }
    let mut all = usual.to_vec();
    if is_nested() {
        // It may be a stop that runs this callback.
        all.extend([WOULD_DEADLOCK, STOPPED]);
    }
    all
}

// SAFETY, for every call below: handles and options are live or NULL, since whoever frees one takes it out of its slot
// first, and only this thread does. Buffers and strings are as long as is said, and outlive the call.
fn perform(call: &Call) {
    match *call {
        Call::WriterOptionsNew(slot) => writer_options_new(slot),
        Call::WriterOptionsFree(slot) => {
            let taken = world().writer_options[usize::from(slot) % OPTIONS].take();
            // SAFETY: see above.
            unsafe { udsipc_writer_options_free(taken.map_or(ptr::null_mut(), |(options, _)| options)) };
        }
        Call::WriterOptionsSet(slot, option) => set_writer_option(slot, option),
        Call::ReaderOptionsNew(slot) => reader_options_new(slot),
        Call::ReaderOptionsFree(slot) => {
            let taken = world().reader_options[usize::from(slot) % OPTIONS].take();
            // SAFETY: see above.
            unsafe { udsipc_reader_options_free(taken.map_or(ptr::null_mut(), |(options, _)| options)) };
        }
        Call::ReaderOptionsSet(slot, option) => set_reader_option(slot, option),
        Call::WriterNew { slot, options, place } => writer_new(slot, options, place),
        Call::WriterStart(slot) => writer_start(slot),
        Call::WriterStop(slot, ms) => writer_stop(slot, ms),
        Call::WriterFree(slot) => writer_free(slot),
        Call::WriterFlush(slot, ms) => writer_flush(slot, ms),
        Call::WriterDispatch(slot, ms) => writer_dispatch(slot, ms),
        Call::WriterMetrics(slot, size) => metrics(writer(slot).1, udsipc_writer_get_metrics, WRITER_COUNTERS, size),
        Call::WriterLook(slot) => writer_look(slot),
        Call::Write(slot, len) => write(slot, len, None),
        Call::WriteNothing(slot, len) => write_nothing(slot, len),
        Call::WriteTimeout(slot, len, ms) => write(slot, len, Some(ms)),
        Call::WriteMany { slot, count, len, broken_at } => write_many(slot, count.into(), len, broken_at.into()),
        Call::ReaderNew { slot, options, place, kind } => reader_new(slot, options, place, kind),
        Call::ReaderStart(slot) => reader_start(slot),
        Call::ReaderStop(slot, ms) => reader_stop(slot, ms),
        Call::ReaderFree(slot) => reader_free(slot),
        Call::ReaderDispatch(slot, ms) => reader_dispatch(slot, ms),
        Call::ReaderMetrics(slot, size) => metrics(reader(slot).1, udsipc_reader_get_metrics, READER_COUNTERS, size),
        Call::ReaderLook(slot, capacity) => reader_look(slot, capacity.into()),
        Call::StrangerListens => stranger_listens(),
        Call::StrangerTakes(bytes) => stranger_takes(bytes.into()),
        Call::StrangerLeaves => drop(world().stranger.take()),
        Call::Text(number) => text(number),
        Call::Path(place, capacity) => path(place, capacity.into()),
        Call::Notify(which) => notify(which),
    }
}

fn writer_options_new(slot: u8) {
    let at = usize::from(slot) % OPTIONS;
    if world().writer_options[at].is_none() {
        // SAFETY: no argument.
        let options = unsafe { udsipc_writer_options_new() };
        assert!(!options.is_null());
        world().writer_options[at] = Some((options, DEFAULTS));
    }
}

fn reader_options_new(slot: u8) {
    let at = usize::from(slot) % OPTIONS;
    if world().reader_options[at].is_none() {
        // SAFETY: no argument.
        let options = unsafe { udsipc_reader_options_new() };
        assert!(!options.is_null());
        world().reader_options[at] = Some((options, false));
    }
}

fn set_writer_option(slot: u8, option: WriterOption) {
    let at = usize::from(slot) % OPTIONS;
    let options = world().writer_options[at].map_or(ptr::null_mut(), |(options, _)| options);
    let good = |good: bool, refusal: i32| if good { OK } else { refusal };
    // SAFETY: see `perform`.
    let (status, expected) = unsafe {
        match option {
            WriterOption::MaxBufferedWrites(count) => {
                let status = udsipc_writer_options_set_max_buffered_writes(options, count);
                (status, good((1..=1 << 20).contains(&count), INVALID_BUFFER_SIZE))
            }
            WriterOption::MaxBufferedBytes(bytes) => {
                (udsipc_writer_options_set_max_buffered_bytes(options, bytes.into()), OK)
            }
            WriterOption::MaxMessageSize(bytes) => {
                (udsipc_writer_options_set_max_message_size(options, bytes.into()), OK)
            }
            WriterOption::WriteTimeout(ms) => {
                (udsipc_writer_options_set_write_timeout_ms(options, ms.into()), good(ms > 0, INVALID_TIMEOUT))
            }
            WriterOption::DialTimeout(ms) => {
                (udsipc_writer_options_set_dial_timeout_ms(options, ms.into()), good(ms > 0, INVALID_TIMEOUT))
            }
            WriterOption::MaxBackoff(ms) => {
                (udsipc_writer_options_set_max_backoff_ms(options, ms.into()), good(ms > 0, INVALID_TIMEOUT))
            }
            WriterOption::WriteBufferSize(bytes) => {
                let status = udsipc_writer_options_set_write_buffer_size(options, bytes);
                (status, good(bytes <= 1_073_741_823, INVALID_BUFFER_SIZE))
            }
            WriterOption::MaxAttempts(count) => (udsipc_writer_options_set_max_attempts(options, count.into()), OK),
            WriterOption::DrainUntilDeadline(on) => {
                (udsipc_writer_options_set_drain_until_deadline(options, on.into()), OK)
            }
            WriterOption::Linger(ms) => (udsipc_writer_options_set_linger_ms(options, ms.into()), OK),
            WriterOption::Acknowledge(mode) => {
                let expected = good(mode <= REQUIRED, INVALID_ARGUMENT);
                let status = udsipc_writer_options_set_acknowledge(options, mode.into());
                if options.is_null() {
                    expect(status, &[NULL_POINTER, INVALID_ARGUMENT]);
                    return;
                }
                (status, expected)
            }
            WriterOption::Redeliver(on) => (udsipc_writer_options_set_redeliver(options, on.into()), OK),
            WriterOption::ErrorCallback(on) => {
                let userdata = ptr::without_provenance_mut(WRITER_ERROR);
                (udsipc_writer_options_set_error_callback(options, on.then_some(on_error), userdata), OK)
            }
        }
    };
    expect(status, &[if options.is_null() { NULL_POINTER } else { expected }]);
    if let (OK, Some((_, settings))) = (status, &mut world().writer_options[at]) {
        match option {
            WriterOption::MaxMessageSize(bytes) => settings.limit = bytes.into(),
            WriterOption::Acknowledge(mode) => settings.acknowledge = mode,
            WriterOption::Redeliver(on) => settings.redeliver = on,
            _ => {}
        }
    }
}

fn set_reader_option(slot: u8, option: ReaderOption) {
    let at = usize::from(slot) % OPTIONS;
    let options = world().reader_options[at].map_or(ptr::null_mut(), |(options, _)| options);
    let good = |good: bool, refusal: i32| if good { OK } else { refusal };
    world().choosy |= matches!(
        option,
        ReaderOption::MaxMessageSize(_)
            | ReaderOption::MaxConnections(_)
            | ReaderOption::AllowUid(_)
            | ReaderOption::AllowGid(_)
    );
    // SAFETY: see `perform`; the last two take no argument and cannot fail.
    let (status, expected) = unsafe {
        match option {
            ReaderOption::MaxMessageSize(bytes) => {
                (udsipc_reader_options_set_max_message_size(options, bytes.into()), OK)
            }
            ReaderOption::InactivityTimeout(ms) => {
                (udsipc_reader_options_set_inactivity_timeout_ms(options, ms.into()), good(ms > 0, INVALID_TIMEOUT))
            }
            ReaderOption::MaxAcceptErrors(count) => (
                udsipc_reader_options_set_max_accept_errors(options, count.into()),
                good(count <= 63, MAX_ACCEPT_ERRORS_TOO_LARGE),
            ),
            ReaderOption::ReadBufferSize(bytes) => (
                udsipc_reader_options_set_read_buffer_size(options, bytes),
                good(bytes <= 1_073_741_823, INVALID_BUFFER_SIZE),
            ),
            ReaderOption::MaxHandlerThreads(count) => (
                udsipc_reader_options_set_max_handler_threads(options, count.into()),
                good((1..=4096).contains(&count), INVALID_ARGUMENT),
            ),
            ReaderOption::MaxConnections(count) => {
                (udsipc_reader_options_set_max_connections(options, count.into()), OK)
            }
            ReaderOption::MaxSharedMemory(bytes) => {
                (udsipc_reader_options_set_max_shared_memory(options, bytes.into()), OK)
            }
            ReaderOption::SocketMode(mode) => {
                (udsipc_reader_options_set_socket_mode(options, mode.into()), good(mode <= 0o777, INVALID_ARGUMENT))
            }
            ReaderOption::AllowUid(us) => {
                (udsipc_reader_options_allow_uid(options, libc::getuid() + u32::from(!us)), OK)
            }
            ReaderOption::AllowGid(us) => {
                (udsipc_reader_options_allow_gid(options, libc::getgid() + 4_000 * u32::from(!us)), OK)
            }
            ReaderOption::ListenFdName(which) => {
                let (name, expected) = [
                    (c"name".as_ptr(), OK),
                    (ptr::null(), OK),
                    (c"a:b".as_ptr(), INVALID_ARGUMENT),
                    (c"\xff".as_ptr(), INVALID_ARGUMENT),
                ][usize::from(which) % 4];
                let status = udsipc_reader_options_set_listen_fd_name(options, name);
                if options.is_null() {
                    expect(status, &[NULL_POINTER, INVALID_ARGUMENT]);
                    return;
                }
                (status, expected)
            }
            ReaderOption::UseSystemd(on) => (udsipc_reader_options_set_use_systemd(options, on.into()), OK),
            ReaderOption::Linger(ms) => (udsipc_reader_options_set_linger_ms(options, ms.into()), OK),
            ReaderOption::CallbackStackSize(bytes) => {
                let bytes = u64::from(bytes % (1 << 22));
                let status = udsipc_reader_options_set_callback_stack_size(options, bytes);
                (status, good(bytes == 0 || bytes >= 1 << 16, INVALID_BUFFER_SIZE))
            }
            ReaderOption::ErrorCallback(on) => {
                let userdata = ptr::without_provenance_mut(READER_ERROR);
                (udsipc_reader_options_set_error_callback(options, on.then_some(on_error), userdata), OK)
            }
        }
    };
    let status = expect(status, &[if options.is_null() { NULL_POINTER } else { expected }]);
    if let (ReaderOption::SocketMode(_), OK, Some((_, has_mode))) = (option, status, &mut world().reader_options[at]) {
        *has_mode = true;
    }
}

// ---- writers ----

impl Place {
    fn name(self) -> Option<CString> {
        Some(match self {
            Place::Abstract => CString::new(format!("@{}", *ABSTRACT)).expect("no NUL"),
            Place::File => FILE.clone(),
            Place::Empty => CString::default(),
            Place::TooLong => CString::new(vec![b'/'; 108]).expect("no NUL"),
            Place::Directory => c"/tmp/".to_owned(),
            Place::Null => return None,
        })
    }

    fn is_good(self) -> bool {
        matches!(self, Place::Abstract | Place::File)
    }

    fn is_same(self, other: Place) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

fn writer_new(slot: u8, options: u8, place: Place) {
    let at = usize::from(slot) % WRITERS;
    if world().writers[at].is_some() {
        return;
    }
    // Of three numbers one means the defaults.
    let (options, settings) = match options % 3 {
        2 => (ptr::null_mut(), DEFAULTS),
        which => world().writer_options[usize::from(which)].unwrap_or((ptr::null_mut(), DEFAULTS)),
    };
    let (name, mut handle) = (place.name(), ptr::null_mut());
    let expected = match place {
        Place::Null => NULL_POINTER,
        place if place.is_good() => OK,
        _ => INVALID_SOCKET_PATH,
    };
    // SAFETY: see `perform`.
    let call = || unsafe {
        udsipc_writer_new(name.as_ref().map_or(ptr::null(), |name| name.as_ptr()), options, &raw mut handle)
    };
    if timed(0, &[expected], call) == OK {
        let mut world = world();
        world.births += 1;
        let born = world.births;
        let (driver, stopped) = (Driver::Nobody, None);
        world.writers[at] =
            Some(Writer { handle, born, place, driver, stopped, settings, next: 0, accepted: 0, dropped: 0 });
        if settings.acknowledge > 0 && settings.redeliver {
            world.repeated.insert(born, 0);
        }
    }
    assert_eq!(handle.is_null(), expected != OK, "an output is written on success, and only then");
}

fn writer_start(slot: u8) {
    let (at, handle, born) = writer(slot);
    if world().starts == MOST_STARTS && !handle.is_null() {
        return;
    }
    let expected = with_writer(at, born, |writer| match (writer.stopped, writer.driver) {
        (Some(_), _) => STOPPED,
        (None, Driver::Host) => WRONG_STATE,
        (None, _) => OK,
    });
    // SAFETY: see `perform`.
    let status = timed(0, &allowed(handle, expected.as_slice()), || unsafe { udsipc_writer_start(handle) });
    if status == OK {
        world().starts += 1;
        with_writer(at, born, |writer| writer.driver = Driver::Threads);
    }
}

fn writer_dispatch(slot: u8, ms: u64) {
    let (at, handle, born) = writer(slot);
    let usual = with_writer(at, born, |writer| match (writer.stopped, writer.driver) {
        (Some(_), _) => STOPPED,
        (None, Driver::Threads) => WRONG_STATE,
        (None, _) => OK,
    });
    // Inside a callback of the handle nothing changes; otherwise it is the host's from the first call on, also for what
    // its callbacks do.
    if usual == Some(OK) && !is_nested() {
        with_writer(at, born, |writer| writer.driver = Driver::Host);
    }
    // SAFETY: see `perform`.
    let call = || unsafe { udsipc_writer_dispatch(handle, ms) };
    let status = timed(ms, &allowed(handle, usual.as_slice()), call);
    if status == OK {
        with_writer(at, born, |writer| writer.driver = Driver::Host);
    }
}

fn writer_flush(slot: u8, ms: u64) {
    let (_, handle, _) = writer(slot);
    // SAFETY: see `perform`.
    timed(ms, &allowed(handle, &[OK, TIMEOUT, UNDELIVERED, STOPPED]), || unsafe { udsipc_writer_flush(handle, ms) });
}

fn writer_stop(slot: u8, ms: u64) {
    let (at, handle, born) = writer(slot);
    let first = with_writer(at, born, |writer| writer.stopped).flatten();
    let abandoned = (!handle.is_null()).then(|| writer_counters(handle).abandoned);
    let usual = first.map_or(vec![OK, UNDELIVERED, TIMEOUT], |first| vec![first]);
    let deaths = world().deaths;
    // SAFETY: see `perform`.
    let status = timed(ms, &allowed(handle, &usual), || unsafe { udsipc_writer_stop(handle, ms) });
    if [NULL_POINTER, WOULD_DEADLOCK].contains(&status) {
        return;
    }
    if with_writer(at, born, |writer| writer.stopped.get_or_insert(status) == &status) != Some(true) {
        return; // freed by one of its own callbacks
    }
    let counters = writer_counters(handle);
    assert_eq!((counters.queue_depth, counters.queue_bytes), (0, 0), "a stopped writer holds nothing");
    if first.is_none() && status == OK && with_writer(at, born, |writer| writer.driver) == Some(Driver::Nobody) {
        assert_eq!(Some(counters.abandoned), abandoned, "OK says that nothing was given up");
    }
    let knows = with_writer(at, born, |writer| writer.settings.acknowledge) == Some(REQUIRED);
    let mut world = world();
    world.silent.insert(born);
    if first.is_none() {
        // Its last callbacks come when its connection is closed already, and one of them may end the reader.
        let excused = world.stranger_was_there || world.deaths > deaths;
        let Counters { sent, suspected_lost, acknowledged, redelivered, .. } = counters;
        assert!(!knows || acknowledged + suspected_lost >= sent, "nothing is open after a stop: {counters:?}");
        world.accounts.push(Account { born, sent, suspected_lost, redelivered, knows, excused });
    }
}

fn writer_free(slot: u8) {
    let (at, handle, born) = writer(slot);
    let gone = world().writers[at].take();
    if let Some(gone) = gone.filter(|gone| gone.stopped.is_none()) {
        let Counters { sent, suspected_lost, .. } = writer_counters(gone.handle);
        // The free of a running writer drains first, so that everything accepted may come; of another it sends nothing.
        let sent = if gone.driver == Driver::Nobody { sent } else { gone.accepted };
        let redelivered = u64::MAX; // it may still send something again
        world().accounts.push(Account { born, sent, suspected_lost, redelivered, knows: false, excused: true });
    }
    timed(LINGER_MS, &[OK], || {
        // SAFETY: see `perform`.
        unsafe { udsipc_writer_free(handle) };
        OK
    });
    world().silent.insert(born);
}

fn writer_look(slot: u8) {
    let (at, handle, born) = writer(slot);
    // SAFETY: see `perform`; the path lives as long as the handle.
    unsafe {
        assert!([0, 1].contains(&udsipc_writer_is_connected(handle)));
        assert_eq!(udsipc_writer_fd(handle) < 0, handle.is_null());
        let path = CStr::from_ptr(udsipc_writer_socket_path(handle));
        let expected = with_writer(at, born, |writer| writer.place.name()).flatten().unwrap_or_default();
        assert_eq!(path, expected.as_c_str());
    }
}

fn writer_counters(handle: *mut c_void) -> Counters {
    let mut counters = Counters::default();
    // SAFETY: a live handle; the struct has the size that is said.
    let status = unsafe { udsipc_writer_get_metrics(handle, (&raw mut counters).cast(), size_of::<Counters>()) };
    expect(status, &[OK]);
    counters
}

/// A shorter struct gets what it has room for, a longer one zeroes; nothing else is touched.
fn metrics(
    handle: *mut c_void,
    get: unsafe extern "C" fn(*const c_void, *mut c_void, usize) -> i32,
    known: usize,
    size: u8,
) {
    let size = usize::from(size) % 136;
    let mut out = [u64::MAX; 17];
    // SAFETY: 136 bytes, and no more are asked for.
    let status = unsafe { get(handle, out.as_mut_ptr().cast(), size) };
    let good = size > 0 && size.is_multiple_of(8);
    expect(
        status,
        &[if handle.is_null() {
            NULL_POINTER
        } else if good {
            OK
        } else {
            INVALID_ARGUMENT
        }],
    );
    let written = if status == OK { size / 8 } else { 0 };
    assert!(out[written..].iter().all(|word| *word == u64::MAX), "more was written than there was room for");
    assert!(out[known.min(written)..written].iter().all(|word| *word == 0));
}

fn write(slot: u8, len: usize, wait: Option<u64>) {
    let (at, handle, born) = writer(slot);
    let message = next_message(at, born, len);
    let data = message.as_ptr().cast();
    let limit = with_writer(at, born, |writer| (writer.stopped.is_some(), writer.settings.limit));
    let mut usual = match limit {
        // Which of two reasons to refuse a message is told is not said.
        Some((true, limit)) if len as u64 > limit => vec![STOPPED, MESSAGE_TOO_LARGE],
        Some((false, limit)) if len as u64 > limit => vec![MESSAGE_TOO_LARGE],
        Some((true, _)) => vec![STOPPED],
        _ => vec![OK, BUFFER_FULL],
    };
    // A stop may lie between the frames of a nested call.
    if is_nested() {
        usual.push(STOPPED);
    }
    let status = match wait {
        // SAFETY: see `perform`.
        None => timed(0, &if handle.is_null() { vec![NULL_POINTER] } else { usual }, || unsafe {
            udsipc_write_message(handle, data, len)
        }),
        Some(ms) => {
            usual.extend([TIMEOUT, STOPPED]);
            // SAFETY: see `perform`.
            timed(ms, &allowed(handle, &usual), || unsafe { udsipc_write_message_timeout(handle, data, len, ms) })
        }
    };
    with_writer(at, born, |writer| match status {
        OK => writer.accepted += 1,
        BUFFER_FULL | TIMEOUT | WOULD_DEADLOCK => writer.dropped += 1,
        _ => {}
    });
}

fn next_message(at: usize, born: u32, len: usize) -> Vec<u8> {
    let number = with_writer(at, born, |writer| {
        writer.next += 1;
        writer.next
    });
    make_message(born, number.unwrap_or(0), len)
}

fn make_message(born: u32, number: u32, len: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&(born as u16).to_le_bytes());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(body(number, len));
    message
}

/// What a message holds behind its head.
fn body(number: u32, len: usize) -> &'static [u8] {
    support::pattern(number as usize % 4096, len - HEAD)
}

/// Empty messages, and NULL where there should be one.
fn write_nothing(slot: u8, len: u8) {
    let (at, handle, born) = writer(slot);
    let len = usize::from(len) * usize::from(len % 2);
    let stopped = with_writer(at, born, |writer| writer.stopped.is_some()).unwrap_or(false);
    let expected = match (handle.is_null() || len > 0, stopped) {
        (true, _) => vec![NULL_POINTER],
        (false, true) => vec![STOPPED],
        (false, false) if is_nested() => vec![OK, STOPPED],
        (false, false) => vec![OK],
    };
    // SAFETY: see `perform`; NULL is looked at before its length.
    timed(0, &expected, || unsafe { udsipc_write_message(handle, ptr::null(), len) });
}

fn write_many(slot: u8, count: usize, len: usize, broken_at: usize) {
    let (at, handle, born) = writer(slot);
    let count = if len > 1024 { count % 4 } else { count };
    let messages: Vec<Vec<u8>> = (0..count).map(|_| next_message(at, born, len)).collect();
    let mut entries: Vec<Buffer> =
        messages.iter().map(|message| Buffer { data: message.as_ptr(), len: message.len() }).collect();
    if let Some(entry) = entries.get_mut(broken_at) {
        entry.data = ptr::null();
    }
    let (stopped, limit) =
        with_writer(at, born, |writer| (writer.stopped.is_some(), writer.settings.limit)).unwrap_or((false, 0));
    let mut accepted = usize::MAX;
    // SAFETY: see `perform`; an entry is NULL or as long as it says.
    let call = || unsafe { udsipc_write_messages(handle, entries.as_ptr(), entries.len(), &raw mut accepted) };
    let usual = if handle.is_null() {
        &[NULL_POINTER][..]
    } else {
        &[OK, BUFFER_FULL, MESSAGE_TOO_LARGE, STOPPED, NULL_POINTER]
    };
    let status = timed(0, usual, call);
    assert!(accepted <= entries.len(), "accepted is written whatever the call returns: {accepted}");
    match status {
        OK => assert!(accepted == entries.len() && broken_at >= entries.len()),
        NULL_POINTER => assert!(handle.is_null() && accepted == 0 || accepted == broken_at),
        MESSAGE_TOO_LARGE => assert!(entries[accepted].len as u64 > limit),
        STOPPED => assert!(accepted == 0 && (stopped || is_nested())),
        _ => assert!(!stopped),
    }
    with_writer(at, born, |writer| {
        writer.accepted += accepted as u64;
        writer.dropped += u64::from(status == BUFFER_FULL);
    });
}

/// The promise of the header, with threads at work or not.
fn check_accounts() {
    for slot in 0..WRITERS as u8 {
        let (at, handle, born) = writer(slot);
        if handle.is_null() {
            continue;
        }
        let counters = writer_counters(handle);
        let state = |writer: &mut Writer| (writer.accepted, writer.dropped, writer.driver);
        let (accepted, dropped, driver) = with_writer(at, born, state).expect("nothing has freed it");
        assert_eq!(counters.sent + counters.abandoned + counters.queue_depth, accepted, "{counters:?}");
        assert_eq!(counters.dropped, dropped, "{counters:?}");
        // Messages and their bytes are counted one after the other: while a thread sends they may disagree.
        let agree = (counters.queue_depth == 0) == (counters.queue_bytes == 0);
        assert!(agree || driver == Driver::Threads, "{counters:?}");
        assert!(counters.suspected_lost <= counters.sent, "{counters:?}");
        let delivered = world().delivered.get(&born).map_or(0, |numbers| numbers.len() as u64);
        assert!(counters.acknowledged <= delivered, "only {delivered} have come: {counters:?}");
    }
}

// ---- readers ----

fn reader_new(slot: u8, options: u8, place: Place, kind: Kind) {
    let at = usize::from(slot) % READERS;
    if world().readers[at].is_some() {
        return;
    }
    let (options, has_mode) = match options % 3 {
        2 => (ptr::null_mut(), false),
        which => world().reader_options[usize::from(which)].unwrap_or((ptr::null_mut(), false)),
    };
    let (name, mut handle, born) = (place.name(), ptr::null_mut(), world().births + 1);
    let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
    let out = if matches!(kind, Kind::NoOut) { ptr::null_mut() } else { &raw mut handle };
    let is_taken = {
        let world = world();
        let reader = world.readers.iter().flatten().any(|other| other.stopped.is_none() && other.place.is_same(place));
        reader || (world.stranger.is_some() && place.is_same(Place::Abstract))
    };
    let expected = match (kind, place) {
        (Kind::NoCallback, _) => &[HANDLER_NULL][..],
        (Kind::NoOut, _) | (_, Place::Null) => &[NULL_POINTER],
        (_, place) if !place.is_good() => &[INVALID_SOCKET_PATH],
        (_, Place::Abstract) if has_mode => &[INVALID_ARGUMENT],
        _ if is_taken => &[ADDRESS_IN_USE],
        _ => &[OK],
    };
    let userdata = ptr::without_provenance_mut(born as usize);
    // SAFETY: see `perform`.
    let call = || unsafe {
        match kind {
            Kind::Batched => udsipc_reader_new_batched(name, Some(on_messages), userdata, options, out),
            Kind::NoCallback => udsipc_reader_new(name, None, userdata, options, out),
            Kind::Each | Kind::NoOut => udsipc_reader_new(name, Some(on_message), userdata, options, out),
        }
    };
    let status = timed(0, expected, call);
    assert_eq!(handle.is_null(), status != OK, "an output is written on success, and only then");
    if status == OK {
        let mut world = world();
        world.births = born;
        world.readers[at] = Some(Reader { handle, born, place, driver: Driver::Nobody, stopped: None });
    }
}

fn reader_start(slot: u8) {
    let (at, handle, born) = reader(slot);
    if world().starts == MOST_STARTS && !handle.is_null() {
        return;
    }
    let expected = with_reader(at, born, |reader| match (reader.stopped, reader.driver) {
        (Some(_), _) => STOPPED,
        (None, Driver::Host) => WRONG_STATE,
        (None, _) => OK,
    });
    // SAFETY: see `perform`.
    let status = timed(0, &allowed(handle, expected.as_slice()), || unsafe { udsipc_reader_start(handle) });
    if status == OK {
        world().starts += 1;
        with_reader(at, born, |reader| reader.driver = Driver::Threads);
    }
}

fn reader_dispatch(slot: u8, ms: u64) {
    let (at, handle, born) = reader(slot);
    let usual = with_reader(at, born, |reader| match (reader.stopped, reader.driver) {
        (Some(_), _) => STOPPED,
        (None, Driver::Threads) => WRONG_STATE,
        (None, _) => OK,
    });
    if usual == Some(OK) && !is_nested() {
        with_reader(at, born, |reader| reader.driver = Driver::Host);
    }
    // SAFETY: see `perform`.
    let call = || unsafe { udsipc_reader_dispatch(handle, ms) };
    if timed(ms, &allowed(handle, usual.as_slice()), call) == OK {
        with_reader(at, born, |reader| reader.driver = Driver::Host);
    }
}

fn reader_stop(slot: u8, ms: u64) {
    let (at, handle, born) = reader(slot);
    let first = with_reader(at, born, |reader| reader.stopped).flatten();
    let usual = first.map_or(vec![OK, TIMEOUT], |first| vec![first]);
    // SAFETY: see `perform`.
    let status = timed(ms, &allowed(handle, &usual), || unsafe { udsipc_reader_stop(handle, ms) });
    if [NULL_POINTER, WOULD_DEADLOCK].contains(&status) {
        return;
    }
    let driver = with_reader(at, born, |reader| {
        reader.stopped = Some(status);
        reader.driver
    });
    if first.is_none() && (status != OK || driver != Some(Driver::Host)) {
        reader_died();
    }
    world().silent.insert(born);
}

fn reader_free(slot: u8) {
    let (at, handle, born) = reader(slot);
    let gone = world().readers[at].take();
    if gone.is_some_and(|gone| gone.stopped.is_none()) {
        reader_died();
    }
    timed(LINGER_MS, &[OK], || {
        // SAFETY: see `perform`.
        unsafe { udsipc_reader_free(handle) };
        OK
    });
    world().silent.insert(born);
}

/// A reader went away that may have left something unread. A writer that has ended before cannot know.
fn reader_died() {
    let mut world = world();
    world.deaths += 1;
    for account in &mut world.accounts {
        account.excused = true;
    }
}

fn reader_look(slot: u8, capacity: usize) {
    let (at, handle, born) = reader(slot);
    let mut line = [1_u8; 256];
    // SAFETY: see `perform`; the path lives as long as the handle, and 256 bytes are there.
    unsafe {
        assert_eq!(udsipc_reader_fd(handle) < 0, handle.is_null());
        let path = CStr::from_ptr(udsipc_reader_socket_path(handle));
        let expected = with_reader(at, born, |reader| reader.place.name()).flatten().unwrap_or_default();
        assert_eq!(path, expected.as_c_str());
        let needed = udsipc_reader_describe(handle, line.as_mut_ptr().cast(), capacity);
        assert_eq!(needed == 0, handle.is_null());
        check_printed(&line, capacity, needed);
    }
}

/// As snprintf(3) leaves a buffer that held nothing but ones.
fn check_printed(buffer: &[u8], capacity: usize, needed: usize) {
    let written = if capacity == 0 { 0 } else { needed.min(capacity - 1) + 1 };
    assert!(buffer[written..].iter().all(|byte| *byte == 1), "written past the end");
    assert!(written == 0 || buffer[written - 1] == 0, "not ended by a NUL");
}

// ---- a reader of another kind ----

fn stranger_listens() {
    let mut world = world();
    let address = SocketAddr::from_abstract_name(ABSTRACT.as_str()).expect("a name");
    if world.stranger.is_none()
        && let Ok(listener) = UnixListener::bind_addr(&address)
    {
        listener.set_nonblocking(true).expect("a socket");
        (world.stranger, world.stranger_was_there) = (Some(listener), true);
    }
}

fn stranger_takes(bytes: usize) {
    let accepted = world().stranger.as_ref().and_then(|listener| listener.accept().ok());
    let take = |mut stream: UnixStream| {
        stream.set_nonblocking(true).expect("a socket");
        let _ = stream.read(&mut vec![0; bytes]);
    };
    if let Some((stream, _)) = accepted {
        take(stream);
    }
}

// ---- the rest ----

fn text(number: i32) {
    // SAFETY: static texts.
    let (text, version) = unsafe { (CStr::from_ptr(udsipc_strerror(number)), CStr::from_ptr(udsipc_version())) };
    assert!(!text.is_empty() && !version.is_empty());
    assert_eq!(text == c"unknown status", !STATUSES.contains(&number), "{number}");
    let mut buffer = [1_u8; 64];
    let capacity = number.unsigned_abs() as usize % 64;
    // SAFETY: a buffer that is longer than is said.
    let needed = unsafe { udsipc_last_error_message(buffer.as_mut_ptr().cast(), capacity) };
    check_printed(&buffer, capacity, needed);
}

fn path(place: Place, capacity: usize) {
    let name = place.name();
    let pointer = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
    let (mut buffer, mut needed) = ([1_u8; 256], 0);
    // SAFETY: see `perform`; 256 bytes are there.
    let (resolved, made) = unsafe {
        let resolved = udsipc_resolve_socket_path(pointer, buffer.as_mut_ptr().cast(), capacity, &raw mut needed);
        (resolved, udsipc_ensure_socket_dir(pointer))
    };
    match &name {
        None => assert_eq!((resolved, made), (NULL_POINTER, NULL_POINTER)),
        Some(name) => {
            assert_eq!(needed, name.count_bytes() + 1, "outside of systemd a path stays as it is");
            assert_eq!(resolved, if capacity < needed { INVALID_BUFFER_SIZE } else { OK });
            let written = if resolved == OK { name.to_bytes_with_nul() } else { &[] };
            assert!(buffer.starts_with(written) && buffer[written.len()..].iter().all(|byte| *byte == 1));
            assert_eq!(made, if place.is_good() { OK } else { INVALID_SOCKET_PATH });
        }
    }
    let is_served = world().readers.iter().flatten().any(|each| each.stopped.is_none() && each.place.is_same(place));
    let expected = match place {
        Place::Null => NULL_POINTER,
        Place::Abstract => OK,
        Place::File if is_served => ADDRESS_IN_USE,
        Place::File => OK,
        _ => INVALID_SOCKET_PATH,
    };
    // SAFETY: see `perform`.
    timed(0, &[expected], || unsafe { udsipc_cleanup_socket(pointer) });
}

fn notify(which: u8) {
    let (state, expected) = [
        (c"READY=1".as_ptr(), OK),
        (c"".as_ptr(), INVALID_ARGUMENT),
        (c"\xff".as_ptr(), INVALID_ARGUMENT),
        (ptr::null(), NULL_POINTER),
    ][usize::from(which) % 4];
    // SAFETY: NULL or static texts; the environment is not changed.
    unsafe {
        expect(udsipc_systemd_notify(state), &[expected]);
        assert_eq!(udsipc_systemd_is_active(), 0);
        for directory in [udsipc_systemd_runtime_dir(), udsipc_systemd_state_dir()] {
            assert_eq!(CStr::from_ptr(directory), c"");
        }
    }
}

// ---- callbacks ----

/// A callback has begun: makes one of the calls that are kept for callbacks, if this is the thread that may.
fn call_back() {
    if thread::current().id() != *MAIN || DEPTH.load(Ordering::Relaxed) >= DEEPEST {
        return;
    }
    let call = world().in_callbacks.pop_front();
    if let Some(call) = call {
        DEPTH.fetch_add(1, Ordering::Relaxed);
        perform(&call);
        DEPTH.fetch_sub(1, Ordering::Relaxed);
    }
}

unsafe extern "C" fn on_message(data: *const u8, len: usize, connection: *const c_void, userdata: *mut c_void) -> i32 {
    // SAFETY: what the library gives a callback is valid during the call.
    let failed = unsafe { take(std::slice::from_raw_parts(data, len), 0, connection, userdata.addr() as u32) };
    call_back();
    i32::from(failed)
}

unsafe extern "C" fn on_messages(
    messages: *const Buffer,
    count: usize,
    connection: *const c_void,
    userdata: *mut c_void,
) -> usize {
    assert!(count > 0);
    // SAFETY: as above.
    let handled = unsafe {
        let messages = std::slice::from_raw_parts(messages, count);
        let data = |message: &Buffer| std::slice::from_raw_parts(message.data, message.len);
        let mut each = messages.iter().enumerate();
        each.position(|(at, message)| take(data(message), at as u64, connection, userdata.addr() as u32))
    };
    call_back();
    handled.unwrap_or(count)
}

/// A message has come, the one at this place of its batch. Returns whether it is to fail.
unsafe fn take(message: &[u8], at: u64, connection: *const c_void, reader: u32) -> bool {
    let (mut pid, mut uid, mut gid) = (0, 0, 0);
    // SAFETY: the connection is what the callback was given.
    let (id, sequence) = unsafe {
        let status = udsipc_connection_credentials(connection, &raw mut pid, &raw mut uid, &raw mut gid);
        expect(status, &[OK]);
        let mut writer = [0; 16];
        let status = udsipc_connection_writer_id(connection, writer.as_mut_ptr());
        expect(status, &[OK, NOT_ACKNOWLEDGED]);
        let sequence = udsipc_message_sequence(connection);
        assert_eq!(status == OK, sequence > 0);
        (udsipc_connection_id(connection), if sequence > 0 { sequence + at } else { 0 })
    };
    assert!(id > 0 && pid as u32 == std::process::id());

    let (head, rest) = message.split_at(HEAD);
    let writer = u32::from(u16::from_le_bytes([head[0], head[1]]));
    let number = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    assert!(rest == body(number, message.len()), "message {number} was changed");

    let mut world = world();
    assert!(!world.silent.contains(&reader), "a message for a reader that was stopped or freed");
    if let Some(before) = world.delivered.entry(writer).or_default().insert(number, sequence) {
        let count = world.repeated.get_mut(&writer).unwrap_or_else(|| panic!("message {number} came twice"));
        *count += 1;
        assert_eq!(sequence, before, "message {number} came again as another one");
    }
    let last = world.last.insert((reader, id, writer), number);
    assert!(last.is_none_or(|last| last < number), "message {number} came after {last:?}");
    world.fails_each > 0 && number.is_multiple_of(world.fails_each)
}

unsafe extern "C" fn on_error(status: i32, _errno: i32, context: *const c_char, userdata: *mut c_void) {
    // SAFETY: static text.
    let context = unsafe { CStr::from_ptr(context) };
    let known = if userdata.addr() == WRITER_ERROR { WRITER_CONTEXTS } else { READER_CONTEXTS };
    assert!(known.contains(&(status, context)), "status {status} in {context:?}");
    assert!(!last_error().is_empty());
    call_back();
}

// ---- the end ----

/// Everything that can still come is let come, and the books are closed.
fn settle() {
    for slot in 0..READERS as u8 {
        let (at, handle, born) = reader(slot);
        let (driver, stopped) =
            with_reader(at, born, |reader| (reader.driver, reader.stopped)).unwrap_or((Driver::Nobody, Some(OK)));
        if stopped.is_none() && driver != Driver::Threads {
            reader_dispatch(slot, 0);
            serve(slot);
        }
        // One of its callbacks may have freed it.
        if let (true, (_, still, same)) = (!handle.is_null(), reader(slot))
            && !still.is_null()
            && same == born
        {
            reader_stop(slot, ENOUGH_MS);
            let status = with_reader(at, born, |reader| reader.stopped).flatten();
            assert!(stopped.is_some() || status.is_none_or(|status| status == OK), "there was time enough: {status:?}");
        }
    }
    for slot in 0..WRITERS as u8 {
        writer_stop(slot, 0);
    }
    check_accounts();
    check_deliveries();
    for slot in 0..8 {
        perform(&Call::WriterFree(slot));
        perform(&Call::ReaderFree(slot));
        perform(&Call::WriterOptionsFree(slot));
        perform(&Call::ReaderOptionsFree(slot));
    }
    world().stranger = None;
}

/// Lets a reader that the host drives work for as long as it says that there is something to do.
fn serve(slot: u8) {
    loop {
        let (_, handle, _) = reader(slot);
        // SAFETY: see `perform`.
        let fd = unsafe { udsipc_reader_fd(handle) };
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, for the length of the call; a number below zero is passed over.
        if unsafe { libc::poll(&raw mut entry, 1, 0) } <= 0 {
            return;
        }
        let before = reader(slot).2;
        reader_dispatch(slot, 0);
        if with_reader(usize::from(slot) % READERS, before, |reader| reader.stopped.is_some()).unwrap_or(true) {
            return;
        }
    }
}

/// What was sent has come, or is suspected lost; what has come was sent.
fn check_deliveries() {
    let world = world();
    for account in &world.accounts {
        let delivered = world.delivered.get(&account.born).map_or(0, |numbers| numbers.len() as u64);
        let Account { born, sent, suspected_lost, redelivered, knows, excused } = account;
        let repeated = world.repeated.get(born).copied().unwrap_or(0);
        assert!(repeated <= *redelivered, "writer {born}: {repeated} came twice, {redelivered} were sent again");
        assert!(delivered <= *sent, "writer {born}: {delivered} of {sent} came");
        assert!(
            (!knows && (*excused || world.choosy)) || delivered + suspected_lost >= *sent,
            "writer {born}: {delivered} of {sent} came, and only {suspected_lost} are suspected lost"
        );
    }
}
