//! Why a task request failed, and what containerd is told.
//!
//! Owns [`TaskError`]. Its gRPC code matters to containerd: "not found" from kill means that the work is done already, "not found" from
//! delete that there is nothing to delete, "unimplemented" that nobody should try again.

use ttrpc::proto::Code;

use crate::guest::{GuestError, RequestError, StartError};
use crate::image::ImageError;
use crate::io::IoError;
use crate::lifecycle::Refused;
use crate::mount::MountError;
use crate::netns::NetnsError;
use crate::oci::ReadSpecError;
use crate::program::ProgramError;
use crate::snapshots::policy::PolicyError;
use crate::spec::SpecError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No such container.
    #[error("container {id} is not in this shim")]
    NoContainer {
        /// Its id.
        id: String,
    },
    /// No such exec.
    #[error("container {id} has no exec {exec_id}")]
    NoExec {
        /// The container.
        id: String,
        /// The exec.
        exec_id: String,
    },
    /// The id is taken.
    #[error("{what} {id} exists already")]
    Exists {
        /// Container or exec.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The state does not allow it.
    #[error("{id}: {source}")]
    Refused {
        /// Container or exec.
        id: String,
        /// Why.
        source: Refused,
    },
    /// Not supported.
    #[error("{what} is not supported{hint}")]
    Unsupported {
        /// What.
        what: String,
        /// Advice, empty or starting with a separator.
        hint: &'static str,
    },
    /// The specification cannot be read.
    #[error(transparent)]
    ReadSpec(#[from] ReadSpecError),
    /// The specification cannot be met.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// An annotation about snapshots cannot be followed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An exec's description is unreadable.
    #[error("the exec's process description is unreadable: {source}")]
    ExecSpec {
        /// Why.
        source: serde_json::Error,
    },
    /// Resources to update are unreadable.
    #[error("the resources to update are unreadable: {source}")]
    Resources {
        /// Why.
        source: serde_json::Error,
    },
    /// Standard input or output.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The root file system cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It cannot be made into an image for the guest.
    #[error("cannot use the container's root file system: {0}")]
    Image(#[from] ImageError),
    /// The image cannot be read.
    #[error(transparent)]
    View(#[from] crate::rootview::ViewError),
    /// The program cannot be run.
    #[error("cannot run the container's program: {0}")]
    Program(#[from] ProgramError),
    /// The network namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The guest did not start.
    #[error("cannot start the guest: {0}")]
    Start(#[from] StartError),
    /// The guest could not start the container's program.
    #[error("cannot run {program:?}: {message} ({})", std::io::Error::from_raw_os_error(*errno))]
    NotStarted {
        /// The program.
        program: String,
        /// errno.
        errno: i32,
        /// What is wrong, as the guest says.
        message: String,
    },
    /// The guest broke before its program ran.
    #[error("the guest failed before its program ran: {error}")]
    GuestFailed {
        /// How.
        error: GuestError,
    },
    /// The guest refused a request.
    #[error("{id}: {source}")]
    Request {
        /// The container.
        id: String,
        /// Why.
        source: RequestError,
    },
    /// The guest could not start an exec.
    #[error("cannot run {program:?} in the guest: {}", std::io::Error::from_raw_os_error(*errno))]
    ExecFailed {
        /// The program.
        program: String,
        /// errno.
        errno: i32,
    },
    /// The guest does not answer.
    #[error("the guest of {id} does not answer within {seconds} s")]
    Silent {
        /// The container.
        id: String,
        /// How long.
        seconds: u64,
    },
    /// The guest ended while a request was under way.
    #[error("{id}: the guest ended")]
    Ended {
        /// The container.
        id: String,
    },
    /// The shim's own record cannot be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Record {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A bug.
    #[error("internal error: {what}")]
    Internal {
        /// What went wrong.
        what: String,
    },
}

impl TaskError {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoContainer { .. } | Self::NoExec { .. } => Code::NOT_FOUND,
            Self::Refused { source: Refused::Finished | Refused::Deleted, .. } => Code::NOT_FOUND,
            Self::Request { source: RequestError::Ended, .. } => Code::NOT_FOUND,
            Self::Exists { .. } => Code::ALREADY_EXISTS,
            Self::Refused { source: Refused::State { .. }, .. }
            | Self::Program(_)
            | Self::NotStarted { .. } => Code::FAILED_PRECONDITION,
            Self::Unsupported { .. } => Code::UNIMPLEMENTED,
            Self::Spec(_)
            | Self::Policy(_)
            | Self::ReadSpec(_)
            | Self::ExecSpec { .. }
            | Self::Resources { .. } => Code::INVALID_ARGUMENT,
            Self::Request { source: RequestError::BadSignal { .. }, .. } => Code::INVALID_ARGUMENT,
            Self::Silent { .. } => Code::DEADLINE_EXCEEDED,
            Self::Internal { .. } => Code::INTERNAL,
            _ => Code::UNKNOWN,
        }
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_containerd_acts_on() {
        let refused = |source| TaskError::Refused { id: "a".into(), source };
        assert_eq!(refused(Refused::Finished).code(), Code::NOT_FOUND);
        assert_eq!(
            refused(Refused::State { request: "delete", state: "running" }).code(),
            Code::FAILED_PRECONDITION
        );
        let unsupported = TaskError::Unsupported { what: "checkpoint".into(), hint: "" };
        assert_eq!(unsupported.code(), Code::UNIMPLEMENTED);
        assert_eq!(
            TaskError::Request { id: "a".into(), source: RequestError::Ended }.code(),
            Code::NOT_FOUND
        );
    }
}
