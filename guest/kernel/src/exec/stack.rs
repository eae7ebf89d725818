//! The first stack of a program: strings, auxiliary vector, environment, arguments (System V ABI AMD64, 3.4.1).

use super::elf::Loaded;
use super::layout::Layout;
use crate::errno::{Errno, Result};
use crate::mem::area::{Area, Protection};
use crate::mem::space::Space;
use crate::task::credentials::Credentials;
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::{PAGE_SIZE, USER_END};

/// Highest address of a stack, exclusive. Each program has its own ([`super::layout`]).
pub const STACK_TOP: u64 = USER_END - PAGE_SIZE;
/// Longest argument or environment string (MAX_ARG_STRLEN).
pub const STRING_MAX: usize = 128 << 10;
/// Most bytes of all arguments and environment strings with their pointers (a quarter of the default stack).
pub const STRINGS_MAX: usize = 2 << 20;
/// Longest value, in bytes, that a clone's variable of identity has room for in place: names of Kubernetes' objects have up to 253.
pub const IDENTITY_ROOM: usize = 256;
/// Most variables that get such room.
const IDENTITY_MAX: usize = 64;
/// Largest stack that is mapped, whatever RLIMIT_STACK says.
const STACK_MAX: u64 = 1 << 30;
/// Smallest one.
const STACK_MIN: u64 = 256 << 10;

/// What the stack tells the program.
pub struct Contents<'a> {
    /// Arguments.
    pub args: &'a [Vec<u8>],
    /// Environment.
    pub env: &'a [Vec<u8>],
    /// Names of the variables in it that may have other values in a clone.
    pub identity: &'a [Vec<u8>],
    /// Path that was executed (AT_EXECFN).
    pub path: &'a [u8],
    /// The program.
    pub program: Loaded,
    /// Load address of the interpreter, 0 if there is none (AT_BASE).
    pub interpreter_base: u64,
    /// Who runs it.
    pub credentials: &'a Credentials,
    /// AT_RANDOM.
    pub random: [u8; 16],
    /// AT_HWCAP: CPUID leaf 1, edx.
    pub hwcap: u64,
    /// AT_MINSIGSTKSZ.
    pub signal_stack_min: u64,
    /// AT_SYSINFO_EHDR, 0 without a vDSO.
    pub vdso: u64,
}

/// Where things lie on the finished stack.
pub struct Built {
    /// Initial stack pointer.
    pub pointer: u64,
    /// First byte and end of the argument strings.
    pub arguments: (u64, u64),
    /// First byte and end of the environment strings.
    pub environment: (u64, u64),
    /// Where in them the variables begin that have room for other values.
    pub identity: u64,
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
}

/// Check the sizes of arguments and environment.
///
/// # Errors
/// E2BIG.
pub fn check(args: &[Vec<u8>], env: &[Vec<u8>]) -> Result {
    let mut total = 0;
    for string in args.iter().chain(env) {
        if string.len() >= STRING_MAX {
            return Err(Errno::E2BIG);
        }
        total += string.len() + 9;
    }
    if total > STRINGS_MAX { Err(Errno::E2BIG) } else { Ok(()) }
}

/// Bytes of a stack that may grow to `limit` (RLIMIT_STACK).
#[must_use]
pub fn size(limit: u64) -> u64 {
    limit.clamp(STACK_MIN, STACK_MAX).next_multiple_of(PAGE_SIZE)
}

/// Append the strings of an environment to `block`: where each begins, and where those begin that say who the guest is. These lie last, each with room for another value
/// (kernel/identity.rs); all others lie one behind the other, as programs that overwrite them for a title expect.
fn put_environment(env: &[Vec<u8>], identity: &[Vec<u8>], block: &mut Vec<u8>) -> (Vec<u64>, u64) {
    let name = |entry: &Vec<u8>| entry.iter().position(|byte| *byte == b'=').map(|at| entry[..at].to_vec());
    let is_identity = |entry: &Vec<u8>| name(entry).is_some_and(|name| identity.contains(&name));
    let mut at = vec![0; env.len()];
    let (own, others): (Vec<_>, Vec<_>) = env.iter().enumerate().partition(|(_, entry)| is_identity(entry));
    for (index, entry) in others {
        at[index] = block.len() as u64;
        block.extend_from_slice(entry);
        block.push(0);
    }
    let identity_at = block.len() as u64;
    for (count, (index, entry)) in own.into_iter().enumerate() {
        at[index] = block.len() as u64;
        block.extend_from_slice(entry);
        let room = name(entry).map_or(0, |name| name.len() + 1 + IDENTITY_ROOM);
        let room = if count < IDENTITY_MAX { room } else { 0 };
        block.resize(at[index] as usize + room.max(entry.len()) + 1, 0);
    }
    (at, identity_at)
}

/// Map the stack and fill it.
///
/// # Errors
/// E2BIG, ENOMEM.
pub fn build(
    space: &mut Space,
    contents: &Contents<'_>,
    layout: &Layout,
    stack_limit: u64,
    executable: bool,
) -> Result<Built> {
    check(contents.args, contents.env)?;
    let size = size(stack_limit);
    let mut protection = Protection::READ | Protection::WRITE;
    if executable {
        protection |= Protection::EXECUTE;
    }
    let mut area = Area::anonymous(layout.stack_top - size, size, protection);
    area.label = "[stack]";
    space.insert(area)?;
    space.stack_top = layout.stack_top;

    // Strings, from the top down: path, environment, arguments, platform, random bytes; their addresses are known once the block is complete.
    let mut block: Vec<u8> = Vec::new();
    let offsets = |strings: &[Vec<u8>], block: &mut Vec<u8>| -> Vec<u64> {
        strings
            .iter()
            .map(|string| {
                let at = block.len() as u64;
                block.extend_from_slice(string);
                block.push(0);
                at
            })
            .collect()
    };
    let random_at = 0u64;
    block.extend_from_slice(&contents.random);
    let platform_at = block.len() as u64;
    block.extend_from_slice(b"x86_64\0");
    let args_at = offsets(contents.args, &mut block);
    let env_start = block.len() as u64;
    let (env_at, identity_at) = put_environment(contents.env, contents.identity, &mut block);
    let env_end = block.len() as u64;
    let path_at = block.len() as u64;
    block.extend_from_slice(contents.path);
    block.push(0);
    let base = (layout.stack_top - layout.stack_skew - 8 - block.len() as u64) & !15;

    let who = contents.credentials;
    let secure = u64::from(who.uid != who.euid || who.gid != who.egid);
    let mut auxv: Vec<(u64, u64)> = Vec::new();
    if contents.vdso != 0 {
        auxv.push((33, contents.vdso));
    }
    auxv.extend([
        (51, contents.signal_stack_min),
        (16, contents.hwcap),
        (6, PAGE_SIZE),
        (17, 100),
        (3, contents.program.headers),
        (4, 56),
        (5, contents.program.header_count),
        (7, contents.interpreter_base),
        (8, 0),
        (9, contents.program.entry),
        (11, u64::from(who.uid)),
        (12, u64::from(who.euid)),
        (13, u64::from(who.gid)),
        (14, u64::from(who.egid)),
        (23, secure),
        (25, base + random_at),
        (26, 2),
        (31, base + path_at),
        (15, base + platform_at),
        (0, 0),
    ]);

    let mut words: Vec<u64> = Vec::new();
    words.push(contents.args.len() as u64);
    words.extend(args_at.iter().map(|at| base + at));
    words.push(0);
    words.extend(env_at.iter().map(|at| base + at));
    words.push(0);
    words.extend(auxv.iter().flat_map(|(key, value)| [*key, *value]));
    let pointer = (base - words.len() as u64 * 8) & !15;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    space.write(base, &block).map_err(|_| Errno::ENOMEM)?;
    space.write(pointer, &bytes).map_err(|_| Errno::ENOMEM)?;
    let first_argument = args_at.first().map_or(base + env_start, |at| base + at);
    Ok(Built {
        pointer,
        arguments: (first_argument, base + env_start),
        environment: (base + env_start, base + env_end),
        identity: base + identity_at,
        auxv: auxv
            .iter()
            .flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()].concat())
            .collect(),
    })
}
