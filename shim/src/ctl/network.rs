//! Which network the guests of `seussctl` have.

use clap::ValueEnum;

use super::run::RunError;
use crate::netns;
use crate::spec::Network;

/// `--network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NetworkChoice {
    /// That of this process: the guest's sockets are the host's, and reach all that this process reaches, 127.0.0.1 too
    #[default]
    #[value(alias = "host")]
    Pod,
    /// None: a network namespace of the guest's own, with nothing but a loopback interface
    None,
}

impl NetworkChoice {
    /// Runs `work`, which starts a guest, where its sockets are to be. Threads that `work` starts are there, too.
    ///
    /// # Errors
    /// [`RunError::Network`]: a namespace cannot be made; `work`'s.
    pub fn run<T: Send>(self, work: impl FnOnce() -> Result<T, RunError> + Send) -> Result<T, RunError> {
        let network = match self {
            Self::Pod => Network::Host,
            Self::None => Network::New,
        };
        netns::run_in(&network, work).map_err(RunError::Network)?
    }
}
