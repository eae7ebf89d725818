//! What a pod's annotations say about snapshots.

use crate::http::Target;
use crate::oci::Spec;

/// Annotation: which snapshots are taken and used.
pub const SNAPSHOT: &str = "seuss.dev/snapshot";
/// Annotation: `PORT/PATH`, asked for once before the function snapshot is taken.
pub const WARM_UP: &str = "seuss.dev/warm-up";
/// Annotation: the key of an argument snapshot (`snapshot argument KEY` on /dev/seuss) to start from; where there is none, the pod starts as without it.
pub const ARGUMENT: &str = "seuss.dev/argument";
/// Annotation: what tells that the program is ready.
pub const READY: &str = "seuss.dev/ready";
/// Annotation: what becomes of connections that the program has opened when it is captured.
pub const CONNECTIONS: &str = "seuss.dev/snapshot-connections";
/// Longest key of an argument snapshot, as /dev/seuss takes it.
const ARGUMENT_MAX: usize = 1024;
/// Annotation: names of environment variables that differ from pod to pod, separated by commas, beside [`HOSTNAME`].
pub const IDENTITY_ENV: &str = "seuss.dev/identity-env";
/// Annotation: `on` or `off`: whether Python and Node.js are made to draw numbers of their own in clones. OpenSSL is in any case.
pub const HOOKS: &str = "seuss.dev/hooks";

/// The environment variable that every pod has a value of its own for.
const HOSTNAME: &str = "HOSTNAME";

/// An annotation that cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: {value:?} is not possible; {expected}")]
pub struct PolicyError {
    /// Its name.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is.
    pub expected: &'static str,
}

/// Which snapshots are taken and used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All that can be had.
    #[default]
    Auto,
    /// Function snapshots, taken when the program is ready.
    Ready,
    /// Those that the program or the operator asks for.
    Manual,
    /// None.
    Off,
}

impl Mode {
    /// Whether base snapshots are taken and used.
    #[must_use]
    pub fn at_base(self) -> bool {
        self == Self::Auto
    }

    /// Whether a snapshot is taken when the program is ready.
    #[must_use]
    pub fn at_readiness(self) -> bool {
        matches!(self, Self::Auto | Self::Ready)
    }
}

/// What tells that a program is ready for its function snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyBy {
    /// It waits for connections and has settled, or it answers somebody outside.
    #[default]
    Listen,
    /// An exec has ended with status 0, or somebody outside had an answer: what probes do.
    Probe,
    /// Nothing: the program or the operator asks for the snapshot.
    Manual,
}

/// What a pod wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which snapshots.
    pub mode: Mode,
    /// When the function snapshot is taken.
    pub ready_by: ReadyBy,
    /// It may be taken while the program has connections open that it has opened itself: clones find them reset.
    pub reset_connections: bool,
    /// What to ask the program before its snapshot is taken, so that what only the first request does is in the snapshot.
    pub warm_up: Option<Target>,
    /// The key of an argument snapshot to start from, if there is one.
    pub argument: Option<String>,
    /// Environment variables that do not count for whether a snapshot fits.
    pub identity_env: Vec<String>,
    /// Interpreters are made to draw numbers of their own.
    pub hooks: bool,
}

/// Whether a container's annotations let interpreters alone.
#[must_use]
pub fn has_no_hooks(spec: &Spec) -> bool {
    spec.annotation(HOOKS) == Some("off")
}

impl Policy {
    /// Reads a container's annotations.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn read(spec: &Spec) -> Result<Self, PolicyError> {
        let mode = match spec.annotation(SNAPSHOT) {
            None | Some("auto") => Mode::Auto,
            Some("ready") => Mode::Ready,
            Some("manual") => Mode::Manual,
            Some("off") => Mode::Off,
            Some(other) => {
                let expected = "say auto, ready, manual or off";
                return Err(PolicyError { key: SNAPSHOT, value: other.to_owned(), expected });
            }
        };
        let ready_by = match spec.annotation(READY) {
            None | Some("listen") => ReadyBy::Listen,
            Some("probe") => ReadyBy::Probe,
            Some("manual") => ReadyBy::Manual,
            Some(other) => {
                let expected = "say listen, probe or manual";
                return Err(PolicyError { key: READY, value: other.to_owned(), expected });
            }
        };
        let reset_connections = match spec.annotation(CONNECTIONS) {
            None | Some("keep") => false,
            Some("reset") => true,
            Some(other) => {
                let expected = "say keep (no snapshot while such a connection is open) or reset";
                return Err(PolicyError { key: CONNECTIONS, value: other.to_owned(), expected });
            }
        };
        let warm_up = spec.annotation(WARM_UP).map(|text| {
            let expected = "say PORT/PATH, as in 8080/healthz";
            text.parse().map_err(|_| PolicyError { key: WARM_UP, value: text.to_owned(), expected })
        });
        let warm_up = warm_up.transpose()?;
        let names = spec.annotation(IDENTITY_ENV).unwrap_or_default();
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let identity_env = [HOSTNAME].into_iter().chain(names).map(str::to_owned).collect();
        let argument = spec.annotation(ARGUMENT).map(|key| {
            let is_word = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
            let expected = "say the key that the program names: one word, at most 1024 bytes";
            let refused = || PolicyError { key: ARGUMENT, value: key.to_owned(), expected };
            if is_word && key.len() <= ARGUMENT_MAX { Ok(key.to_owned()) } else { Err(refused()) }
        });
        let argument = argument.transpose()?;
        let hooks = match spec.annotation(HOOKS) {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => {
                return Err(PolicyError { key: HOOKS, value: other.to_owned(), expected: "say on or off" });
            }
        };
        Ok(Self { mode, ready_by, reset_connections, warm_up, argument, identity_env, hooks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Policy, PolicyError> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let spec = Spec { annotations: annotations.iter().map(owned).collect(), ..Spec::default() };
        Policy::read(&spec)
    }

    #[test]
    fn annotations_are_read() {
        let policy = read(&[]).unwrap();
        assert_eq!(
            (policy.mode, policy.warm_up, policy.identity_env),
            (Mode::Auto, None, vec!["HOSTNAME".into()])
        );
        let policy =
            read(&[(SNAPSHOT, "ready"), (WARM_UP, ":8080/a?b=c"), (IDENTITY_ENV, "POD_IP, X,")]).unwrap();
        assert_eq!((policy.mode, policy.hooks), (Mode::Ready, true));
        assert!(!read(&[(HOOKS, "off")]).unwrap().hooks);
        assert_eq!(policy.warm_up, Some(Target { port: 8080, path: "/a?b=c".into() }));
        assert_eq!(policy.identity_env, ["HOSTNAME", "POD_IP", "X"]);
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        assert_eq!(read(&[(WARM_UP, "8080")]).unwrap_err().key, WARM_UP);
        assert_eq!(read(&[(HOOKS, "no")]).unwrap_err().key, HOOKS);
        assert_eq!(read(&[(ARGUMENT, "user-7")]).unwrap().argument.as_deref(), Some("user-7"));
        for wrong in ["", "two words", &"x".repeat(1025)] {
            assert_eq!(read(&[(ARGUMENT, wrong)]).unwrap_err().key, ARGUMENT, "{wrong:?}");
        }
        for (key, value) in [(READY, "always"), (CONNECTIONS, "")] {
            assert_eq!(read(&[(key, value)]).unwrap_err().key, key);
        }
        let policy = read(&[(READY, "probe"), (CONNECTIONS, "reset")]).unwrap();
        assert_eq!((policy.ready_by, policy.reset_connections), (ReadyBy::Probe, true));
        let error = read(&[(SNAPSHOT, "on")]).unwrap_err().to_string();
        assert!(
            error.contains("seuss.dev/snapshot") && error.contains("\"on\"") && error.contains("ready"),
            "{error}"
        );
    }
}
