//! The terminal that `seussctl run` was started from.
//!
//! Owns [`RawMode`]: while it lives, the terminal passes every byte through (the guest's own terminal echoes, edits lines and makes
//! signals of keys); when it is dropped, in whatever way, the terminal is as before. A panic restores it too, through [`RawMode`]'s drop while
//! the stack unwinds. Nothing restores it after SIGKILL: `stty sane` does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

/// Rows and columns.
pub type WindowSize = (u16, u16);

/// A terminal in raw mode.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts `terminal` in raw mode.
    ///
    /// # Errors
    /// `terminal` is none, or its settings cannot be changed.
    pub fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before) {
            tracing::warn!(%error, "cannot restore the terminal; `stty sane` does");
        }
    }
}

/// The size of `terminal`; (0, 0) if it has none.
#[must_use]
pub fn window_size(terminal: BorrowedFd<'_>) -> WindowSize {
    termios::tcgetwinsize(terminal).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};

    use super::*;

    fn terminal() -> (OwnedFd, std::fs::File) {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let name = ptsname(&main, Vec::new()).unwrap();
        let side = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (main, side)
    }

    #[test]
    fn raw_mode_ends_with_the_guard_and_with_a_panic() {
        let (_main, side) = terminal();
        let cooked = |file: &std::fs::File| tcgetattr(file).unwrap().local_modes.contains(LocalModes::ICANON);
        assert!(cooked(&side));
        {
            let _raw = RawMode::enter(&side).unwrap();
            assert!(!cooked(&side));
        }
        assert!(cooked(&side));
        let held = side.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _raw = RawMode::enter(&held).unwrap();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(cooked(&side));
    }

    #[test]
    fn what_is_no_terminal_is_refused_and_has_no_size() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(RawMode::enter(&null).is_err());
        assert_eq!(window_size(null.as_fd()), (0, 0));
    }

    #[test]
    fn the_size_is_the_terminals() {
        let (main, side) = terminal();
        let mut size = termios::tcgetwinsize(&main).unwrap();
        (size.ws_row, size.ws_col) = (24, 80);
        tcsetwinsize(&main, size).unwrap();
        assert_eq!(window_size(side.as_fd()), (24, 80));
    }
}
