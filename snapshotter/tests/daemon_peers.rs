//! Who may speak with the daemon: root, and the user that it runs as. Sockets are opened to everybody here, as an administrator's mistake might.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::fs::{Permissions, set_permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_support::{Daemon, skip};

/// What the server at `socket` answers to `request` of user `uid`; nothing if it hangs up.
fn answer(socket: PathBuf, uid: u32, request: &'static [u8]) -> std::io::Result<Vec<u8>> {
    let ask = move || {
        // SAFETY: takes numbers; the system call itself, unlike the C library's function, changes the calling thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut answer = vec![0; 64];
        match stream.write_all(request).and_then(|()| stream.read(&mut answer)) {
            Ok(count) => answer.truncate(count),
            // Closed before it was read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => answer.clear(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer.clear(),
            Err(error) => return Err(error),
        }
        Ok(answer)
    };
    std::thread::spawn(ask).join().unwrap()
}

fn open_to_all(path: &Path) {
    set_permissions(path, Permissions::from_mode(0o666)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn others_get_no_answer() {
    if !rustix::process::geteuid().is_root() {
        skip("becoming another user needs root");
        return;
    }
    let daemon = Daemon::start(&[]).await;
    let dir = daemon.root().parent().unwrap().to_owned();
    set_permissions(&dir, Permissions::from_mode(0o711)).unwrap();
    // The preface of HTTP/2 and empty settings (RFC 9113, 3.4): a server answers with its own.
    let grpc: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let socket = dir.join("sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    open_to_all(&socket);
    assert!(!answer(socket.clone(), 0, grpc).unwrap().is_empty(), "root is answered");
    assert_eq!(answer(socket, 65_534, grpc).unwrap(), b"", "nobody is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_read_no_metrics() {
    if !rustix::process::geteuid().is_root() {
        skip("becoming another user needs root");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
    let socket = place.path().join("metrics");
    let _daemon = Daemon::start(&["--metrics-socket", socket.to_str().unwrap()]).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    open_to_all(&socket);
    let get: &[u8] = b"GET /healthz HTTP/1.1\r\n\r\n";
    assert!(answer(socket.clone(), 0, get).unwrap().starts_with(b"HTTP/1.1 200"), "root is answered");
    assert_eq!(answer(socket, 65_534, get).unwrap(), b"", "nobody is not");
}
