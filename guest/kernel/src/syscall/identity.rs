//! Who a process is and belongs to: user and group ids, process groups, sessions, prctl.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::task::process::Process;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(102, "getuid", |call| Ok(u64::from(call.process.credentials.borrow().uid))),
    full(104, "getgid", |call| Ok(u64::from(call.process.credentials.borrow().gid))),
    full(105, "setuid", setuid),
    full(106, "setgid", setgid),
    full(107, "geteuid", |call| Ok(u64::from(call.process.credentials.borrow().euid))),
    full(108, "getegid", |call| Ok(u64::from(call.process.credentials.borrow().egid))),
    full(109, "setpgid", setpgid),
    full(111, "getpgrp", |call| Ok(u64::from(call.process.pgid.get()))),
    full(112, "setsid", setsid),
    full(113, "setreuid", setreuid),
    full(114, "setregid", setregid),
    full(115, "getgroups", getgroups),
    full(116, "setgroups", setgroups),
    full(117, "setresuid", setresuid),
    full(118, "getresuid", getresuid),
    full(119, "setresgid", setresgid),
    full(120, "getresgid", getresgid),
    full(121, "getpgid", getpgid),
    full(122, "setfsuid", setfsuid),
    full(123, "setfsgid", setfsgid),
    full(124, "getsid", getsid),
    partial(125, "capget", capget, "root has all, others have none"),
    partial(126, "capset", capset, "accepted; capabilities follow the effective user id"),
    partial(135, "personality", personality, "ADDR_NO_RANDOMIZE counts, the rest is stored only"),
    partial(
        157,
        "prctl",
        prctl,
        "names, death signal, subreaper, dumpable, no_new_privs, keepcaps, timer slack, capability queries",
    ),
    partial(158, "arch_prctl", arch_prctl, "FS and GS base"),
];

/// "Leave as it is".
const KEEP: u32 = u32::MAX;

fn setuid(call: &mut Call<'_>) -> SysResult {
    let uid = call.args[0] as u32;
    let mut who = call.process.credentials.borrow_mut();
    let old = who.uid;
    if uid == KEEP {
        return Err(Errno::EINVAL.into());
    }
    if who.is_privileged() {
        (who.uid, who.suid) = (uid, uid);
    } else if uid != who.uid && uid != who.suid {
        return Err(Errno::EPERM.into());
    }
    (who.euid, who.fsuid) = (uid, uid);
    drop(who);
    call.kernel.user_changed(&call.process, old);
    Ok(0)
}

fn setgid(call: &mut Call<'_>) -> SysResult {
    let gid = call.args[0] as u32;
    let mut who = call.process.credentials.borrow_mut();
    if gid == KEEP {
        return Err(Errno::EINVAL.into());
    }
    if who.is_privileged() {
        (who.gid, who.sgid) = (gid, gid);
    } else if gid != who.gid && gid != who.sgid {
        return Err(Errno::EPERM.into());
    }
    (who.egid, who.fsgid) = (gid, gid);
    Ok(0)
}

fn allowed(privileged: bool, wanted: u32, known: &[u32]) -> Result {
    if wanted == KEEP || privileged || known.contains(&wanted) { Ok(()) } else { Err(Errno::EPERM) }
}

fn setreuid(call: &mut Call<'_>) -> SysResult {
    let (real, effective) = (call.args[0] as u32, call.args[1] as u32);
    let mut who = call.process.credentials.borrow_mut();
    let privileged = who.is_privileged();
    allowed(privileged, real, &[who.uid, who.euid])?;
    allowed(privileged, effective, &[who.uid, who.euid, who.suid])?;
    let old = who.uid;
    if real != KEEP {
        who.uid = real;
    }
    if effective != KEEP {
        who.euid = effective;
    }
    if real != KEEP || (effective != KEEP && effective != old) {
        who.suid = who.euid;
    }
    who.fsuid = who.euid;
    drop(who);
    call.kernel.user_changed(&call.process, old);
    Ok(0)
}

fn setregid(call: &mut Call<'_>) -> SysResult {
    let (real, effective) = (call.args[0] as u32, call.args[1] as u32);
    let mut who = call.process.credentials.borrow_mut();
    let privileged = who.is_privileged();
    allowed(privileged, real, &[who.gid, who.egid])?;
    allowed(privileged, effective, &[who.gid, who.egid, who.sgid])?;
    let old = who.gid;
    if real != KEEP {
        who.gid = real;
    }
    if effective != KEEP {
        who.egid = effective;
    }
    if real != KEEP || (effective != KEEP && effective != old) {
        who.sgid = who.egid;
    }
    who.fsgid = who.egid;
    Ok(0)
}

fn setresuid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    let mut who = call.process.credentials.borrow_mut();
    for id in wanted {
        allowed(who.is_privileged(), id, &[who.uid, who.euid, who.suid])?;
    }
    let keep = |new: u32, old: u32| if new == KEEP { old } else { new };
    let old = who.uid;
    (who.uid, who.euid, who.suid) =
        (keep(wanted[0], who.uid), keep(wanted[1], who.euid), keep(wanted[2], who.suid));
    who.fsuid = who.euid;
    drop(who);
    call.kernel.user_changed(&call.process, old);
    Ok(0)
}

fn setresgid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    let mut who = call.process.credentials.borrow_mut();
    for id in wanted {
        allowed(who.is_privileged(), id, &[who.gid, who.egid, who.sgid])?;
    }
    let keep = |new: u32, old: u32| if new == KEEP { old } else { new };
    (who.gid, who.egid, who.sgid) =
        (keep(wanted[0], who.gid), keep(wanted[1], who.egid), keep(wanted[2], who.sgid));
    who.fsgid = who.egid;
    Ok(0)
}

fn getresuid(call: &mut Call<'_>) -> SysResult {
    let who = call.process.credentials.borrow().clone();
    for (address, id) in call.args.into_iter().zip([who.uid, who.euid, who.suid]) {
        call.write_u32(address, id)?;
    }
    Ok(0)
}

fn getresgid(call: &mut Call<'_>) -> SysResult {
    let who = call.process.credentials.borrow().clone();
    for (address, id) in call.args.into_iter().zip([who.gid, who.egid, who.sgid]) {
        call.write_u32(address, id)?;
    }
    Ok(0)
}

fn setfsuid(call: &mut Call<'_>) -> SysResult {
    let uid = call.args[0] as u32;
    let mut who = call.process.credentials.borrow_mut();
    let old = who.fsuid;
    if who.is_privileged() || [who.uid, who.euid, who.suid, who.fsuid].contains(&uid) {
        who.fsuid = if uid == KEEP { old } else { uid };
    }
    Ok(u64::from(old))
}

fn setfsgid(call: &mut Call<'_>) -> SysResult {
    let gid = call.args[0] as u32;
    let mut who = call.process.credentials.borrow_mut();
    let old = who.fsgid;
    if who.is_privileged() || [who.gid, who.egid, who.sgid, who.fsgid].contains(&gid) {
        who.fsgid = if gid == KEEP { old } else { gid };
    }
    Ok(u64::from(old))
}

fn getgroups(call: &mut Call<'_>) -> SysResult {
    let (size, list) = (call.args[0] as u32 as i32, call.args[1]);
    let groups = call.process.credentials.borrow().groups.clone();
    if size < 0 || (size != 0 && (size as usize) < groups.len()) {
        return Err(Errno::EINVAL.into());
    }
    if size != 0 {
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        call.write(list, &bytes)?;
    }
    Ok(groups.len() as u64)
}

fn setgroups(call: &mut Call<'_>) -> SysResult {
    let (count, list) = (call.args[0], call.args[1]);
    if !call.process.credentials.borrow().is_privileged() {
        return Err(Errno::EPERM.into());
    }
    if count > 65536 {
        return Err(Errno::EINVAL.into());
    }
    let groups: Result<Vec<u32>> =
        (0..count).map(|index| call.read_u32(list.wrapping_add(index * 4))).collect();
    call.process.credentials.borrow_mut().groups = groups?;
    Ok(0)
}

fn target(call: &Call<'_>, pid: u64) -> Result<Rc<Process>> {
    if pid as u32 == 0 {
        Ok(call.process.clone())
    } else {
        call.kernel.process(pid as u32).ok_or(Errno::ESRCH)
    }
}

fn setpgid(call: &mut Call<'_>) -> SysResult {
    let process = target(call, call.args[0])?;
    let pgid = call.args[1] as u32;
    if (pgid as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let pgid = if pgid == 0 { process.pid } else { pgid };
    let is_child = process.parent.get() == call.process.pid;
    if process.pid != call.process.pid && !is_child {
        return Err(Errno::ESRCH.into());
    }
    if is_child && process.has_execed.get() {
        return Err(Errno::EACCES.into());
    }
    if process.sid.get() == process.pid || process.sid.get() != call.process.sid.get() {
        return Err(Errno::EPERM.into());
    }
    let sid = call.process.sid.get();
    let exists =
        call.kernel.processes().iter().any(|other| other.pgid.get() == pgid && other.sid.get() == sid);
    if pgid != process.pid && !exists {
        return Err(Errno::EPERM.into());
    }
    process.pgid.set(pgid);
    Ok(0)
}

fn getpgid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(target(call, call.args[0])?.pgid.get()))
}

fn getsid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(target(call, call.args[0])?.sid.get()))
}

fn setsid(call: &mut Call<'_>) -> SysResult {
    let pid = call.process.pid;
    if call.kernel.processes().iter().any(|process| process.pgid.get() == pid) {
        return Err(Errno::EPERM.into());
    }
    call.process.sid.set(pid);
    call.process.pgid.set(pid);
    Ok(u64::from(pid))
}

/// _LINUX_CAPABILITY_VERSION_3.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// CAP_LAST_CAP of Linux 6.1.
const CAPABILITY_LAST: u64 = 40;

fn capabilities(process: &Process) -> u64 {
    if process.credentials.borrow().is_privileged() { (1 << (CAPABILITY_LAST + 1)) - 1 } else { 0 }
}

fn capget(call: &mut Call<'_>) -> SysResult {
    let [header, data, ..] = call.args;
    let (version, pid) = (call.read_u32(header)?, call.read_u32(header.wrapping_add(4))?);
    if version != CAPABILITY_VERSION {
        call.write_u32(header, CAPABILITY_VERSION)?;
        return if data == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if data == 0 {
        return Ok(0);
    }
    let set = capabilities(&*target(call, u64::from(pid))?);
    let (low, high) = (set as u32, (set >> 32) as u32);
    let words = [low, low, 0, high, high, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    call.write(data, &bytes)?;
    Ok(0)
}

fn capset(call: &mut Call<'_>) -> SysResult {
    if call.read_u32(call.args[0])? != CAPABILITY_VERSION {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = [0; 24];
    call.read(call.args[1], &mut bytes)?;
    let word =
        |at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    let permitted = word(4) | word(16) << 32;
    let may = capabilities(&call.process);
    if permitted & ((1 << (CAPABILITY_LAST + 1)) - 1) & !may != 0 { Err(Errno::EPERM.into()) } else { Ok(0) }
}

fn personality(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0] as u32;
    let old = call.process.personality.get();
    if wanted != u32::MAX {
        call.process.personality.set(wanted);
    }
    Ok(u64::from(old))
}

fn prctl(call: &mut Call<'_>) -> SysResult {
    let [option, value, ..] = call.args;
    let process = &call.process;
    let flag = |value: u64| if value <= 1 { Ok(value == 1) } else { Err(Errno::EINVAL) };
    match option {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG.
        1 if value > 64 => return Err(Errno::EINVAL.into()),
        1 => process.death_signal.set(value as u32),
        2 => call.write_u32(value, process.death_signal.get())?,
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE.
        3 => return Ok(u64::from(process.dumpable.get())),
        4 => process.dumpable.set(flag(value)?),
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS.
        7 => return Ok(0),
        8 => {
            flag(value)?;
        }
        // PR_SET_NAME, PR_GET_NAME.
        15 => {
            let mut name = [0; 16];
            let got = process.space().borrow_mut().read_some(value, &mut name);
            if got == 0 {
                return Err(Errno::EFAULT.into());
            }
            let len = name.iter().position(|byte| *byte == 0).unwrap_or(15);
            call.thread.set_comm(&name[..len]);
        }
        16 => {
            let comm = *call.thread.comm.borrow();
            call.write(value, &comm)?;
        }
        // PR_GET_SECCOMP.
        21 => return Ok(0),
        // PR_CAPBSET_READ, PR_CAPBSET_DROP.
        23 if value <= CAPABILITY_LAST => return Ok(1),
        24 if value <= CAPABILITY_LAST => {}
        // PR_GET_SECUREBITS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK.
        27 => return Ok(0),
        29 => {}
        30 => return Ok(50_000),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER.
        36 => process.is_subreaper.set(value != 0),
        37 => call.write_u32(value, u32::from(process.is_subreaper.get()))?,
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS.
        38 if value == 1 => process.no_new_privs.set(true),
        39 => return Ok(u64::from(process.no_new_privs.get())),
        // PR_GET_THP_DISABLE, PR_SET_THP_DISABLE.
        41 => {}
        42 => return Ok(0),
        // PR_CAP_AMBIENT: nothing is in the ambient set.
        47 => return if value == 1 || value == 4 { Ok(0) } else { Err(Errno::EPERM.into()) },
        // PR_SET_VMA (anonymous names).
        0x5356_4d41 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn arch_prctl(call: &mut Call<'_>) -> SysResult {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let [code, address, ..] = call.args;
    let (fs_base, gs_base) = call.kernel.machine.segment_bases();
    match code {
        SET_FS | SET_GS => {
            if address >= 1 << 47 {
                return Err(Errno::EPERM.into());
            }
            let (fs, gs) = if code == SET_FS { (address, gs_base) } else { (fs_base, address) };
            call.kernel.machine.set_segment_bases(fs, gs);
            call.thread.with_context(|context| (context.fs_base, context.gs_base) = (fs, gs));
        }
        GET_FS => call.write_u64(address, fs_base)?,
        GET_GS => call.write_u64(address, gs_base)?,
        _ => return Err(Stop::Errno(Errno::EINVAL)),
    }
    Ok(0)
}
