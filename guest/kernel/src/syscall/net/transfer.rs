//! Sending and receiving: send, recv and their relatives; read and write of sockets.

use super::super::call::{Call, UserBuffer};
use super::super::table::{Entry, full, partial};
use super::super::time::timespec_ns;
use super::message::{Header, resolve};
use super::{is_over, pause, read_address, socket, with_caller, write_address};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::mem::user::{Sink, Source};
use crate::net::{Control, Incoming, MessageFlags, Outgoing, Pause, Socket, SocketType};
use crate::task::signal::SIGPIPE;
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(44, "sendto", sendto),
    full(45, "recvfrom", recvfrom),
    partial(46, "sendmsg", sendmsg, "no MSG_OOB, no MSG_ZEROCOPY"),
    partial(47, "recvmsg", recvmsg, "no MSG_OOB, no MSG_ERRQUEUE"),
    full(299, "recvmmsg", recvmmsg),
    full(307, "sendmmsg", sendmmsg),
];

/// Most messages of one sendmmsg(2) or recvmmsg(2).
const MESSAGES_MAX: u64 = 1024;
/// Bytes of struct mmsghdr.
const MANY_HEADER_BYTES: u64 = 64;
/// Offset of msg_len in it.
const MANY_LEN_AT: u64 = 56;
/// MSG_CMSG_COMPAT: no business of 64-bit programs.
const COMPAT: u32 = 1 << 31;

/// What a receiving call has got.
struct Received {
    count: u64,
    name: Option<Vec<u8>>,
    control: Vec<Control>,
    outcome: MessageFlags,
}

fn is_stream(socket: &dyn Socket) -> bool {
    socket.common().kind == SocketType::Stream
}

/// Whether a call that has moved something returns that now, instead of waiting for the rest.
fn returns_part(call: &Call<'_>, paused: Pause, nonblocking: bool, timeout_ns: Option<u64>) -> bool {
    let interrupted = call.thread.progress.borrow().interrupted;
    matches!(paused, Pause::Errno(_)) || nonblocking || interrupted || is_over(call, timeout_ns)
}

/// Receive one message, or what a stream has, waiting as the flags and options say.
fn receive(
    call: &Call<'_>,
    file: &File,
    socket: &dyn Socket,
    buffer: &mut UserBuffer,
    flags: MessageFlags,
) -> core::result::Result<Received, Stop> {
    let nonblocking = file.is_nonblocking() || flags.contains(MessageFlags::DONTWAIT);
    let common = socket.common();
    let timeout = common.options.receive_timeout_ns.get();
    let peeks = flags.contains(MessageFlags::PEEK);
    let wanted = Sink::remaining(buffer);
    let low = common.options.receive_low.get() as usize;
    let least = if flags.contains(MessageFlags::WAITALL) { wanted } else { low.min(wanted) };
    let mut done = call.thread.progress.borrow().bytes as usize;
    buffer.skip(done as u64);
    let mut got = Received { count: 0, name: None, control: Vec::new(), outcome: MessageFlags::empty() };
    loop {
        let mut message = Incoming::new(buffer, flags);
        message.done = done;
        let outcome = with_caller(call, nonblocking, |caller| socket.receive(caller, &mut message));
        let Incoming { name, control, outcome: told, complete, .. } = message;
        got.name = got.name.or(name);
        if got.control.is_empty() {
            got.control = control;
        }
        got.outcome |= told;
        let paused = match outcome {
            Ok(count) => {
                got.count = (done + count) as u64;
                if !is_stream(socket) || complete || count == 0 || done + count >= least {
                    return Ok(got);
                }
                if peeks {
                    // What is there is looked at again, from the start, when there is more.
                    let ends = Readiness::READ_HANGUP | Readiness::HANGUP | Readiness::ERROR;
                    if socket.poll().intersects(ends)
                        || returns_part(call, Pause::WouldBlock, nonblocking, timeout)
                    {
                        return Ok(got);
                    }
                    return Err(pause(call, socket, Pause::WouldBlock, nonblocking, timeout));
                }
                done += count;
                call.thread.progress.borrow_mut().bytes = done as u64;
                continue;
            }
            Err(paused) => paused,
        };
        if done > 0 && returns_part(call, paused, nonblocking, timeout) {
            if let Pause::Errno(errno) = paused
                && errno != Errno::EFAULT
            {
                // The next call reports it.
                common.error.set(Some(errno));
            }
            got.count = done as u64;
            return Ok(got);
        }
        return Err(pause(call, socket, paused, nonblocking, timeout));
    }
}

/// Send one message, or all bytes of a stream, waiting as the flags and options say.
fn send(
    call: &Call<'_>,
    file: &File,
    socket: &dyn Socket,
    buffer: &mut UserBuffer,
    destination: &[u8],
    flags: MessageFlags,
    control: Vec<Control>,
) -> SysResult {
    let nonblocking = file.is_nonblocking() || flags.contains(MessageFlags::DONTWAIT);
    let timeout = socket.common().options.send_timeout_ns.get();
    let before = call.thread.progress.borrow().bytes;
    let mut resolved = resolve(call, socket, control)?;
    if before > 0 {
        resolved.rights.clear();
    }
    let total = Source::remaining(buffer) as u64;
    buffer.skip(before);
    let mut done = before;
    loop {
        let mut message = Outgoing::plain(buffer, flags);
        message.destination = destination;
        message.rights = core::mem::take(&mut resolved.rights);
        message.credentials = resolved.credentials;
        message.control.clone_from(&resolved.others);
        message.done = done as usize;
        let outcome = with_caller(call, nonblocking, |caller| socket.send(caller, &mut message));
        match outcome {
            Ok(count) => {
                done += count as u64;
                call.thread.progress.borrow_mut().bytes = done;
                if done >= total || count == 0 || !is_stream(socket) {
                    return Ok(done);
                }
                buffer.rewind_to(done);
            }
            Err(paused) => {
                if done > 0 && returns_part(call, paused, nonblocking, timeout) {
                    return Ok(done);
                }
                let is_silent = flags.contains(MessageFlags::NOSIGNAL) || !is_stream(socket);
                if paused == Pause::Errno(Errno::EPIPE) && !is_silent {
                    call.kernel.raise(&call.thread, SIGPIPE);
                }
                return Err(pause(call, socket, paused, nonblocking, timeout));
            }
        }
    }
}

/// read(2) and readv(2) of a socket.
pub(crate) fn read(
    call: &Call<'_>,
    file: &File,
    socket: &dyn Socket,
    buffer: &mut UserBuffer,
    nonblocking: bool,
) -> SysResult {
    if Sink::remaining(buffer) == 0 {
        return Ok(0);
    }
    let flags = if nonblocking { MessageFlags::DONTWAIT } else { MessageFlags::empty() };
    Ok(receive(call, file, socket, buffer, flags)?.count)
}

/// write(2) and writev(2) of a socket.
pub(crate) fn write(
    call: &Call<'_>,
    file: &File,
    socket: &dyn Socket,
    buffer: &mut UserBuffer,
    nonblocking: bool,
) -> SysResult {
    let flags = if nonblocking { MessageFlags::DONTWAIT } else { MessageFlags::empty() };
    send(call, file, socket, buffer, &[], flags, Vec::new())
}

/// Move bytes of the library OS's own to a socket or from it, once (sendfile(2), splice(2)).
///
/// # Errors
/// EAGAIN where it has to wait; what the socket says.
pub(crate) fn write_some(call: &Call<'_>, socket: &dyn Socket, source: &mut dyn Source) -> Result<usize> {
    let mut message = Outgoing::plain(source, MessageFlags::empty());
    settle(with_caller(call, true, |caller| socket.send(caller, &mut message)))
}

/// As [`write_some`], from the socket.
///
/// # Errors
/// As [`write_some`].
pub(crate) fn read_some(call: &Call<'_>, socket: &dyn Socket, sink: &mut dyn Sink) -> Result<usize> {
    let mut message = Incoming::new(sink, MessageFlags::empty());
    settle(with_caller(call, true, |caller| socket.receive(caller, &mut message)))
}

fn settle(outcome: core::result::Result<usize, Pause>) -> Result<usize> {
    outcome.map_err(|paused| if let Pause::Errno(errno) = paused { errno } else { Errno::EAGAIN })
}

fn parse_flags(flags: u64) -> Result<MessageFlags> {
    let flags = flags as u32;
    if flags & COMPAT != 0 { Err(Errno::EINVAL) } else { Ok(MessageFlags::from_bits_retain(flags)) }
}

fn sendto(call: &mut Call<'_>) -> SysResult {
    let [fd, address, len, flags, to, to_len] = call.args;
    let mut buffer = call.buffer(address, len);
    let (file, socket) = socket(call, fd)?;
    let destination = if to == 0 { Vec::new() } else { read_address(call, to, to_len)? };
    let flags = MessageFlags::from_bits_retain(flags as u32);
    send(call, &file, &*socket, &mut buffer, &destination, flags, Vec::new())
}

fn recvfrom(call: &mut Call<'_>) -> SysResult {
    let [fd, address, len, flags, from, from_len] = call.args;
    let mut buffer = call.buffer(address, len);
    let (file, socket) = socket(call, fd)?;
    let flags = MessageFlags::from_bits_retain(flags as u32);
    let got = receive(call, &file, &*socket, &mut buffer, flags)?;
    if from != 0 {
        write_address(call, from, from_len, got.name.as_deref().unwrap_or_default())?;
    }
    Ok(got.count)
}

/// Send the message whose msghdr lies at `address`.
fn send_one(
    call: &Call<'_>,
    file: &Rc<File>,
    socket: &dyn Socket,
    address: u64,
    flags: MessageFlags,
) -> SysResult {
    let header = Header::read(call, address)?;
    let destination = header.destination(call)?;
    let mut buffer = header.buffer(call)?;
    let control = header.control(call)?;
    send(call, file, socket, &mut buffer, &destination, flags, control)
}

/// Receive a message into the msghdr at `address`.
fn receive_one(
    call: &Call<'_>,
    file: &Rc<File>,
    socket: &dyn Socket,
    address: u64,
    flags: MessageFlags,
) -> SysResult {
    let header = Header::read(call, address)?;
    let mut buffer = header.buffer(call)?;
    let got = receive(call, file, socket, &mut buffer, flags)?;
    let outcome = got.outcome | flags & MessageFlags::CMSG_CLOEXEC;
    let close_on_exec = flags.contains(MessageFlags::CMSG_CLOEXEC);
    header.store(call, got.name.as_deref(), got.control, outcome, close_on_exec)?;
    Ok(got.count)
}

fn sendmsg(call: &mut Call<'_>) -> SysResult {
    let [fd, address, flags, ..] = call.args;
    let flags = parse_flags(flags)?;
    let (file, socket) = socket(call, fd)?;
    send_one(call, &file, &*socket, address, flags)
}

fn recvmsg(call: &mut Call<'_>) -> SysResult {
    let [fd, address, flags, ..] = call.args;
    let flags = parse_flags(flags)?;
    let (file, socket) = socket(call, fd)?;
    receive_one(call, &file, &*socket, address, flags)
}

/// What a call on many messages returns when one of them stops it.
fn stop_many(call: &Call<'_>, done: u64, stop: Stop) -> SysResult {
    let waits = matches!(stop, Stop::Wait | Stop::WaitNoRestart);
    if done == 0 || (waits && !call.thread.progress.borrow().interrupted) { Err(stop) } else { Ok(done) }
}

/// Note that message number `done` is finished: the call goes on with the next one, also when it runs again.
fn finish_one(call: &Call<'_>, done: u64) {
    let mut progress = call.thread.progress.borrow_mut();
    (progress.value, progress.bytes) = (done, 0);
}

fn sendmmsg(call: &mut Call<'_>) -> SysResult {
    let [fd, address, count, flags, ..] = call.args;
    let flags = parse_flags(flags)?;
    let (file, socket) = socket(call, fd)?;
    let mut done = call.thread.progress.borrow().value;
    while done < u64::from(count as u32).min(MESSAGES_MAX) {
        let header = address.wrapping_add(done * MANY_HEADER_BYTES);
        let sent = match send_one(call, &file, &*socket, header, flags) {
            Ok(sent) => sent,
            Err(stop) => return stop_many(call, done, stop),
        };
        if let Err(errno) = call.write_u32(header.wrapping_add(MANY_LEN_AT), sent as u32) {
            return stop_many(call, done, errno.into());
        }
        done += 1;
        finish_one(call, done);
    }
    Ok(done)
}

fn recvmmsg(call: &mut Call<'_>) -> SysResult {
    let [fd, address, count, flags, timeout, _] = call.args;
    let mut flags = parse_flags(flags)?;
    let timeout_ns = if timeout == 0 {
        None
    } else {
        let [seconds, nanos] = call.read_words(timeout)?;
        Some(timespec_ns(seconds, nanos)?)
    };
    let (file, socket) = socket(call, fd)?;
    socket.common().check_error()?;
    let waits_for_one = flags.contains(MessageFlags::WAITFORONE);
    flags.remove(MessageFlags::WAITFORONE);
    // The deadline of the whole call, unless SO_RCVTIMEO needs the thread's only one for each message.
    let timeout_ns = timeout_ns.filter(|_| socket.common().options.receive_timeout_ns.get().is_none());
    let is_late = || is_over(call, timeout_ns) || call.thread.progress.borrow().deadline_ns == Some(u64::MAX);
    is_late();
    let mut done = call.thread.progress.borrow().value;
    while done < u64::from(count as u32).min(MESSAGES_MAX) {
        let header = address.wrapping_add(done * MANY_HEADER_BYTES);
        let this = if waits_for_one && done > 0 { flags | MessageFlags::DONTWAIT } else { flags };
        let got = match receive_one(call, &file, &*socket, header, this) {
            Ok(got) => got,
            Err(Stop::Wait) if is_late() => {
                // As on Linux, the time is looked at when a message has come, and not before (recvmmsg(2), "Bugs").
                call.thread.progress.borrow_mut().deadline_ns = Some(u64::MAX);
                return Err(Stop::Wait);
            }
            Err(stop) => return stop_many(call, done, stop),
        };
        if let Err(errno) = call.write_u32(header.wrapping_add(MANY_LEN_AT), got as u32) {
            return stop_many(call, done, errno.into());
        }
        done += 1;
        finish_one(call, done);
        if is_late() {
            break;
        }
    }
    Ok(done)
}
