//! Linux error numbers, and why a system call stops without a result.

/// A Linux errno (asm-generic/errno-base.h, errno.h).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u16);

/// What a system call returns when it has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The call failed.
    Errno(Errno),
    /// The call waits: its thread is registered with at least one wait queue or has a deadline; run it again when woken. A signal that arrives
    /// meanwhile makes it return EINTR, or restart, as the signal's action says.
    Wait,
    /// As `Wait`, but interrupted calls return EINTR even where the action has SA_RESTART (signal(7): poll, select, epoll_wait,
    /// nanosleep, sigsuspend, ...).
    WaitNoRestart,
    /// The thread's registers were replaced (exec, sigreturn) or the thread is gone (exit): store no result.
    NoResult,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Result of an operation that cannot wait.
pub type Result<T = ()> = core::result::Result<T, Errno>;
/// Result of a system call.
pub type SysResult = core::result::Result<u64, Stop>;

impl Errno {
    /// The value that a system call returns in rax.
    #[must_use]
    pub fn as_return_value(self) -> u64 {
        (-i64::from(self.0)).cast_unsigned()
    }
}

macro_rules! errnos {
    ($($name:ident = $value:literal,)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Self = Self($value);)*

            /// The symbolic name, or "E?" for a number without one.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 { $($value => stringify!($name),)* _ => "E?" }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8, EBADF = 9, ECHILD = 10, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EFAULT = 14, ENOTBLK = 15, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19, ENOTDIR = 20,
    EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOTTY = 25, ETXTBSY = 26, EFBIG = 27, ENOSPC = 28, ESPIPE = 29,
    EROFS = 30, EMLINK = 31, EPIPE = 32, EDOM = 33, ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37, ENOSYS = 38,
    ENOTEMPTY = 39, ELOOP = 40, ENODATA = 61, ETIME = 62, EPROTO = 71, EBADMSG = 74, EOVERFLOW = 75, EILSEQ = 84, EUSERS = 87,
    ENOTSOCK = 88, EDESTADDRREQ = 89, EMSGSIZE = 90, EPROTOTYPE = 91, ENOPROTOOPT = 92, EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94, EOPNOTSUPP = 95, EPFNOSUPPORT = 96, EAFNOSUPPORT = 97, EADDRINUSE = 98, EADDRNOTAVAIL = 99,
    ENETDOWN = 100, ENETUNREACH = 101, ECONNABORTED = 103, ECONNRESET = 104, ENOBUFS = 105, EISCONN = 106, ENOTCONN = 107,
    ESHUTDOWN = 108, ETOOMANYREFS = 109, ETIMEDOUT = 110, ECONNREFUSED = 111, EHOSTUNREACH = 113, EALREADY = 114, EINPROGRESS = 115, ESTALE = 116,
    EDQUOT = 122, ECANCELED = 125, EOWNERDEAD = 130,
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
