use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::sys::event::{Event, NO_EVENT};

const LISTENER: Key = 0;
const FILE: Key = 7;
/// Longer than any pause between two looks.
const LATER: Duration = Duration::from_secs(60);

struct Bench {
    dir: TempDir,
    path: PathBuf,
    poller: Poller,
    listener: Listener,
    now: Cell<Instant>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(&ReaderOptions::default())
    }

    fn with(options: &ReaderOptions) -> Bench {
        let dir = tempdir().expect("a directory");
        fs::create_dir(dir.path().join("d")).expect("a directory");
        let path = dir.path().join("d/s");
        let poller = Poller::new().expect("descriptors");
        let listener = open(&path, options).expect("a listener");
        listener.register(&poller, LISTENER).expect("a poller");
        listener.watch(&poller, FILE);
        Bench { dir, path, poller, listener, now: Cell::new(Instant::now()) }
    }

    /// The keys that the poller tells of.
    fn ready(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        let each = |event| match event {
            Event::Ready { key, .. } => keys.push(key),
            Event::Timer | Event::Woken => {}
        };
        self.poller.wait(&mut [NO_EVENT; 8], Some(Duration::from_millis(20)), each).expect("a poller");
        keys
    }

    fn changed(&self) -> FileNews {
        self.listener.file_changed(&self.poller, LISTENER, self.now.get())
    }

    /// As if a minute had passed.
    fn later(&self) -> FileNews {
        self.now.set(self.now.get() + LATER);
        self.listener.look_again(&self.poller, LISTENER, self.now.get())
    }

    /// What a loss looks like: reported once, with a time to look again.
    fn expect_loss(&self) {
        assert_eq!(self.ready(), [FILE], "the kernel tells of it");
        let news = self.changed();
        assert!(matches!(&news.error, Some(Error::SocketGone { path }) if *path == self.path), "{news:?}");
        assert!(news.again_at.is_some() && !news.relistened);
        let again = self.changed();
        assert!(again.error.is_none() && again.again_at == news.again_at && !again.relistened, "{again:?}");
    }

    fn expect_return(&self) {
        let news = self.later();
        assert!(news.relistened && news.error.is_none() && news.again_at.is_none(), "{news:?}");
    }

    fn serves_new_connections(&self) {
        let _client = UnixStream::connect(&self.path).expect("it listens");
        assert!(self.ready().contains(&LISTENER));
        self.listener.accept().expect("the client");
        self.listener.rearm(&self.poller, LISTENER).expect("open");
    }
}

fn open(path: &Path, options: &ReaderOptions) -> Result<Listener> {
    Listener::open(path, options, &Environment::new(0, |_| None))
}

fn is_empty<T>(accepted: io::Result<T>) -> bool {
    accepted.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_removed_file_is_reported_once_and_the_path_taken_again() {
    let bench = Bench::new();
    for round in 1..=3 {
        bench.serves_new_connections();
        fs::remove_file(&bench.path).expect("the socket file");
        bench.expect_loss();
        assert!(UnixStream::connect(&bench.path).is_err(), "not before the pause");
        bench.expect_return();
        bench.serves_new_connections();
        assert_eq!(bench.listener.relistened(), round);
        // The new watch begins with the end of the old one.
        let news = bench.changed();
        assert!(news.error.is_none() && news.again_at.is_none(), "{news:?}");
    }
}

#[test]
fn who_waits_in_the_backlog_of_the_old_socket_is_accepted_first_and_nobody_is_lost() {
    let bench = Bench::new();
    let old: Vec<_> = (0..3).map(|_| UnixStream::connect(&bench.path).expect("it listens")).collect();
    fs::remove_file(&bench.path).expect("the socket file");
    assert!(bench.changed().error.is_some());
    bench.expect_return();
    let new = UnixStream::connect(&bench.path).expect("it listens again");
    for expected in old.iter().chain([&new]) {
        let mut writer = expected;
        io::Write::write_all(&mut writer, b"x").expect("connected");
        let (accepted, _) = bench.listener.accept().expect("one that waits");
        assert_eq!(socket::bytes_readable(accepted.as_fd()).expect("a socket"), 1, "in their order");
        socket::recv(accepted.as_fd(), &mut [0; 8]).expect("a byte");
    }
    assert!(is_empty(bench.listener.accept()));
    assert!(bench.listener.sockets.lock().retired.is_empty(), "the old socket is closed when its backlog is empty");
}

#[test]
fn a_file_that_somebody_else_listens_at_is_left_alone_until_he_is_gone() {
    let bench = Bench::new();
    let theirs = bench.dir.path().join("d/theirs");
    let other = UnixListener::bind(&theirs).expect("a socket");
    fs::rename(&theirs, &bench.path).expect("over ours");
    bench.expect_loss();
    for _ in 0..3 {
        let news = bench.later();
        assert!(news.again_at.is_some() && news.error.is_none() && !news.relistened, "{news:?}");
    }
    UnixStream::connect(&bench.path).expect("untouched");
    drop(other);
    bench.expect_return();
    bench.serves_new_connections();
}

#[test]
fn every_way_to_lose_the_name_is_noticed() {
    type Lose = fn(&Bench);
    let ways: [(&str, Lose); 4] = [
        ("unlink", |bench| fs::remove_file(&bench.path).expect("unlink")),
        ("rename away", |bench| fs::rename(&bench.path, bench.dir.path().join("d/t")).expect("rename")),
        ("rename of the directory", |bench| {
            fs::rename(bench.dir.path().join("d"), bench.dir.path().join("e")).expect("rename")
        }),
        ("removal of the directory", |bench| fs::remove_dir_all(bench.dir.path().join("d")).expect("removal")),
    ];
    for (way, lose) in ways {
        let bench = Bench::new();
        lose(&bench);
        assert!(bench.ready().contains(&FILE), "{way}");
        let news = bench.changed();
        assert!(matches!(news.error, Some(Error::SocketGone { .. })), "{way}: {news:?}");
    }
}

#[test]
fn a_change_that_takes_nothing_away_is_no_loss() {
    let bench = Bench::new();
    fs::set_permissions(&bench.path, fs::Permissions::from_mode(0o600)).expect("own file");
    fs::write(bench.dir.path().join("d/another"), "x").expect("a file");
    let _ = bench.ready();
    let news = bench.changed();
    assert!(news.error.is_none() && news.again_at.is_none() && !news.relistened, "{news:?}");
    bench.serves_new_connections();
}

#[test]
fn a_directory_that_is_gone_is_waited_for_and_the_reason_reported_once() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.dir.path().join("d")).expect("own directory");
    assert!(bench.changed().error.is_some());
    let news = bench.later();
    let text = news.error.expect("a reason").to_string();
    assert!(text.contains("d/s") && news.again_at.is_some(), "{text}");
    assert!(bench.later().error.is_none());
    assert!(!bench.dir.path().join("d").exists(), "it is not made again");
    fs::create_dir(bench.dir.path().join("d")).expect("a directory");
    bench.expect_return();
    bench.serves_new_connections();
    fs::remove_file(&bench.path).expect("the socket file");
    bench
        .listener
        .file_changed(&bench.poller, LISTENER, Instant::now())
        .error
        .expect("watched in the new directory too");
}

#[test]
fn the_new_socket_has_what_the_first_one_had() {
    let bench = Bench::with(&ReaderOptions::new().socket_mode(0o606));
    fs::remove_file(&bench.path).expect("the socket file");
    assert!(bench.changed().error.is_some());
    bench.expect_return();
    assert_eq!(fs::metadata(&bench.path).expect("the new file").mode() & 0o7777, 0o606);
}

#[test]
fn a_file_that_went_before_it_was_watched_is_noticed_with_the_first_timer() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("s");
    let poller = Poller::new().expect("descriptors");
    let listener = open(&path, &ReaderOptions::default()).expect("a listener");
    fs::remove_file(&path).expect("the socket file");
    listener.watch(&poller, FILE);
    let mut timers = 0;
    let each = |event| timers += u32::from(event == Event::Timer);
    poller.wait(&mut [NO_EVENT; 8], Some(Duration::from_secs(10)), each).expect("a poller");
    assert_eq!(timers, 1);
    assert!(listener.look_again(&poller, LISTENER, Instant::now()).error.is_some());
}

#[test]
fn nothing_is_taken_again_once_the_path_was_given_back() {
    let bench = Bench::new();
    bench.listener.give_back().expect("ours");
    assert!(!bench.path.exists());
    for news in [bench.changed(), bench.later()] {
        assert!(news.error.is_none() && news.again_at.is_none() && !news.relistened, "{news:?}");
    }
    assert!(!bench.path.exists());
    fs::write(&bench.path, "another's").expect("a file");
    bench.listener.give_back().expect("the second time");
    bench.listener.close();
    assert_eq!(fs::read(&bench.path).expect("the file"), b"another's");
    assert_eq!(bench.ready(), [0; 0], "the watch is gone");
}

#[test]
fn a_stop_during_a_loss_leaves_the_file_of_somebody_else() {
    let bench = Bench::new();
    fs::remove_file(&bench.path).expect("the socket file");
    let other = UnixListener::bind(&bench.path).expect("somebody else");
    assert!(bench.changed().error.is_some());
    assert!(bench.listener.shut(), "there may be a backlog");
    bench.listener.close();
    UnixStream::connect(&bench.path).expect("untouched");
    drop(other);
    assert!(is_empty(bench.listener.accept()));
}

#[test]
fn an_abstract_address_and_a_passed_listener_are_not_watched() {
    let poller = Poller::new().expect("descriptors");
    let name = PathBuf::from(format!("@udsipc-test-listener-{}", std::process::id()));
    let dir = tempdir().expect("a directory");
    let options = ReaderOptions::new().listen_fd(UnixListener::bind(dir.path().join("s")).expect("a socket"));
    for listener in [open(&name, &ReaderOptions::default()), open(Path::new("/nowhere/s"), &options)] {
        let listener = listener.expect("a listener");
        listener.watch(&poller, FILE);
        for news in [
            listener.file_changed(&poller, LISTENER, Instant::now()),
            listener.look_again(&poller, LISTENER, Instant::now() + LATER),
        ] {
            assert!(news.error.is_none() && news.again_at.is_none() && !news.relistened, "{news:?}");
        }
    }
}

#[test]
fn a_listener_of_the_hosts_is_neither_shut_nor_removed() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("s");
    let theirs = Arc::new(UnixListener::bind(&path).expect("a socket"));
    let options = ReaderOptions::new().listen_fd(Arc::clone(&theirs));
    for _ in 0..2 {
        let listener = open(Path::new("/nowhere/at/all"), &options).expect("the same options make several");
        assert_eq!(listener.path(), path);
        assert!(!listener.is_activated());
        let _client = UnixStream::connect(&path).expect("it listens");
        listener.accept().expect("the client");
        assert!(!listener.shut(), "its backlog is the host's");
        listener.close();
        let _waiting = UnixStream::connect(&path).expect("it still listens");
        theirs.accept().expect("the host can accept");
    }
    assert!(path.exists() && !Path::new("/nowhere").exists());
}

#[test]
fn a_path_by_mistake_makes_no_directory() {
    let dir = tempdir().expect("a directory");
    let runtime = dir.path().to_str().expect("UTF-8").to_owned();
    let environment = Environment::new(0, |name| (name == "RUNTIME_DIRECTORY").then(|| runtime.clone().into()));
    for path in ["unix:///run/x", "~/x", "/run/x\n", "ipc:///run/x", ""] {
        let refused = Listener::open(Path::new(path), &ReaderOptions::default(), &environment);
        assert!(matches!(refused, Err(Error::InvalidSocketPath { .. })), "{path:?}: {refused:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    assert!(!Path::new("unix:").exists() && !Path::new("~").exists());
}
