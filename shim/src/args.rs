//! The command line by which containerd calls a shim.
//!
//! Owns [`Flags`]: Go's flag syntax (`-flag value`, `-flag=value`, one or two dashes), as containerd's runtime-v2 document lists it.

use std::ffi::OsString;
use std::path::PathBuf;

/// What containerd asks of the binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Serve the task API on the socket that is standard input (what `start` runs in the background).
    #[default]
    Serve,
    /// Start a shim, or find the one that serves this pod, and print its address.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Print the version (`-v`).
    Version,
    /// Print the runtime's description (`-info`).
    Info,
}

/// The command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// `-namespace`: containerd's namespace.
    pub namespace: String,
    /// `-id`: the container (for `start` and `delete`), or the one that the shim was started for.
    pub id: String,
    /// `-address`: containerd's gRPC socket.
    pub address: String,
    /// `-publish-binary`: containerd's program, for publishing events without its ttrpc socket.
    pub publish_binary: PathBuf,
    /// `-socket`: address to serve on, for messages; the socket itself is standard input.
    pub socket: String,
    /// `-bundle`: the container's bundle, for `delete`; the working directory otherwise.
    pub bundle: PathBuf,
    /// `-debug`: log at level debug.
    pub debug: bool,
}

/// A command line that is not containerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFlagsError {
    /// Unknown flag.
    #[error("unknown flag {flag} (this binary is called by containerd; people use seussctl)")]
    UnknownFlag {
        /// The flag.
        flag: String,
    },
    /// No value behind a flag.
    #[error("flag -{flag} needs a value")]
    NoValue {
        /// The flag.
        flag: String,
    },
    /// Unknown action.
    #[error("unknown action {action:?}; containerd calls start and delete")]
    UnknownAction {
        /// The action.
        action: String,
    },
    /// A value is needed and was not given.
    #[error("flag -{flag} is missing")]
    Missing {
        /// The flag.
        flag: &'static str,
    },
}

impl Flags {
    /// Parses `args`, without the program's name.
    ///
    /// # Errors
    /// [`ParseFlagsError`].
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, ParseFlagsError> {
        let mut flags = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy().into_owned();
            let Some(flag) = text.strip_prefix('-') else {
                flags.action = match text.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(ParseFlagsError::UnknownAction { action: text }),
                };
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (flag, None),
            };
            let on = inline.as_ref().is_none_or(|value| value != "false");
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| args.next())
                    .ok_or_else(|| ParseFlagsError::NoValue { flag: name.to_owned() })
            };
            match name {
                "debug" => flags.debug = on,
                "v" | "version" if on => flags.action = Action::Version,
                "info" if on => flags.action = Action::Info,
                "v" | "version" | "info" => {}
                "namespace" => flags.namespace = lossy(value()?),
                "id" => flags.id = lossy(value()?),
                "address" => flags.address = lossy(value()?),
                "publish-binary" => flags.publish_binary = value()?.into(),
                "socket" => flags.socket = lossy(value()?),
                "bundle" => flags.bundle = value()?.into(),
                _ => return Err(ParseFlagsError::UnknownFlag { flag: text }),
            }
        }
        flags.check()
    }

    fn check(self) -> Result<Self, ParseFlagsError> {
        let needs_container = matches!(self.action, Action::Serve | Action::Start | Action::Delete);
        if needs_container && self.namespace.is_empty() {
            return Err(ParseFlagsError::Missing { flag: "namespace" });
        }
        if needs_container && self.id.is_empty() {
            return Err(ParseFlagsError::Missing { flag: "id" });
        }
        if self.action == Action::Serve && self.socket.is_empty() {
            return Err(ParseFlagsError::Missing { flag: "socket" });
        }
        Ok(self)
    }
}

fn lossy(value: OsString) -> String {
    value.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, ParseFlagsError> {
        Flags::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn as_containerd_calls_start() {
        let flags = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id 7f -debug start",
        )
        .unwrap();
        assert_eq!(flags.action, Action::Start);
        assert_eq!((&*flags.namespace, &*flags.id, &*flags.address), ("k8s.io", "7f", "/run/c.sock"));
        assert_eq!(flags.publish_binary, PathBuf::from("/usr/bin/containerd"));
        assert!(flags.debug);
    }

    #[test]
    fn as_containerd_calls_delete() {
        let flags = parse("-namespace=k8s.io --id=7f -bundle /run/b delete").unwrap();
        assert_eq!((flags.action, flags.bundle), (Action::Delete, PathBuf::from("/run/b")));
    }

    #[test]
    fn questions_need_no_container() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("-colour red"), Err(ParseFlagsError::UnknownFlag { flag: "-colour".into() }));
        assert_eq!(parse("-namespace n -id"), Err(ParseFlagsError::NoValue { flag: "id".into() }));
        assert_eq!(
            parse("-namespace n -id 1 stop"),
            Err(ParseFlagsError::UnknownAction { action: "stop".into() })
        );
        assert_eq!(parse("-id 1 start"), Err(ParseFlagsError::Missing { flag: "namespace" }));
        assert_eq!(parse("-namespace n -id 1"), Err(ParseFlagsError::Missing { flag: "socket" }));
    }
}
