use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use seuss_abi::spec::InjectedFile;

use super::*;
use crate::rootview::tests::view_of;

/// An x86-64 executable with these segments (type, offset, size in the file), padded to `size`.
fn elf(segments: &[(u32, u64, u64)], size: usize) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (file[16], file[18], file[32], file[54], file[56]) = (2, 62, 64, 56, segments.len() as u8);
    for (kind, offset, bytes) in segments {
        let mut segment = [0; 56];
        segment[..4].copy_from_slice(&kind.to_le_bytes());
        segment[8..16].copy_from_slice(&offset.to_le_bytes());
        segment[32..40].copy_from_slice(&bytes.to_le_bytes());
        file.extend(segment);
    }
    file.resize(file.len().max(size), 0);
    file
}

fn dynamic(interpreter: &str) -> Vec<u8> {
    let mut file = elf(&[(3, 120, interpreter.len() as u64 + 1)], 0);
    file.extend(interpreter.as_bytes());
    file.push(0);
    file
}

struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let root = Self { dir: tempfile::tempdir().unwrap() };
        root.put("lib/ld.so", &elf(&[], 0), 0o755);
        root.put("bin/static", &elf(&[(1, 0, 200)], 200), 0o755);
        root.put("bin/dynamic", &dynamic("/lib/ld.so"), 0o755);
        root.put("bin/script", b"#! /bin/dynamic -x\n", 0o755);
        root
    }

    fn put(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn check_in(&self, program: &str, cwd: &str, path: Option<&str>) -> Result<(), (u8, String)> {
        let process = ProcessSpec {
            args: vec![program.into()],
            env: path.map(|path| format!("PATH={path}").into_bytes()).into_iter().collect(),
            cwd: cwd.into(),
            ..ProcessSpec::default()
        };
        check(&view_of(&[self.dir.path()]), &process).map_err(|error| (error.exit_code(), error.to_string()))
    }

    fn check(&self, program: &str) -> Result<(), (u8, String)> {
        self.check_in(program, "/", None)
    }

    fn refused(&self, program: &str, code: u8, words: &str) {
        let (found, message) = self.check(program).unwrap_err();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn what_linux_runs_passes() {
    let root = Root::new();
    for program in ["static", "/bin/static", "dynamic", "script", "../bin/script"] {
        assert_eq!(root.check(program), Ok(()), "{program}");
    }
    assert_eq!(root.check_in("./static", "/bin", None), Ok(()));
    assert_eq!(root.check_in("static", "/", Some("/nosuch:/bin")), Ok(()));
    assert_eq!(
        root.check_in("static", "/bin", Some("")),
        Ok(()),
        "an empty entry of PATH is the working directory"
    );
    assert!(root.check_in("static", "/", Some("/sbin")).is_err());
}

#[test]
fn each_fault_has_its_words_and_exit_code() {
    let root = Root::new();
    root.put("bin/noexec", &elf(&[], 0), 0o644);
    root.put("bin/text", b"hello\n", 0o755);
    root.put("bin/empty", b"", 0o755);
    root.put("bin/short", b"\x7fELF\x02", 0o755);
    root.put("bin/header", &elf(&[], 0)[..60], 0o755);
    root.put("bin/table", &elf(&[(1, 0, 0), (1, 0, 0)], 0)[..150], 0o755);
    root.put("bin/segment", &elf(&[(1, 0, 5000)], 4999), 0o755);
    root.put("bin/nold", &dynamic("/lib/ld-other.so"), 0o755);
    root.put("bin/badscript", b"#!/bin/nosuch\n", 0o755);
    root.put("bin/badshebang", b"#!\n", 0o755);
    let mut arm = elf(&[], 0);
    arm[18] = 183;
    root.put("bin/arm", &arm, 0o755);
    let mut narrow = elf(&[], 0);
    narrow[4] = 1;
    root.put("bin/narrow", &narrow, 0o755);
    let mut object = elf(&[], 0);
    object[16] = 1;
    root.put("bin/object", &object, 0o755);
    for (program, code, words) in [
        ("nosuch", 127, "nosuch: not found in the root file system's PATH"),
        ("/nosuch", 127, "/nosuch: no such program"),
        ("", 127, "not found"),
        ("/bin", 126, "/bin is a directory"),
        ("noexec", 126, "not executable (mode 0644)"),
        ("text", 126, "neither an ELF executable nor a script"),
        ("empty", 126, "neither an ELF executable nor a script"),
        ("badshebang", 126, "neither an ELF executable nor a script"),
        ("short", 126, "truncated ELF file: the ELF header ends at byte 64, the file has 5 bytes"),
        ("header", 126, "truncated ELF file: the ELF header"),
        ("table", 126, "truncated ELF file: the program header table ends at byte 176"),
        ("segment", 126, "truncated ELF file: a loadable segment ends at byte 5000, the file has 4999 bytes"),
        ("nold", 127, "needs the interpreter /lib/ld-other.so"),
        ("badscript", 127, "needs the interpreter /bin/nosuch"),
        ("arm", 126, "for arm64"),
        ("narrow", 126, "for a 32-bit machine"),
        ("object", 126, "type REL"),
    ] {
        root.refused(program, code, words);
    }
}

#[test]
fn scripts_do_not_call_each_other_forever() {
    let root = Root::new();
    root.put("bin/a", b"#!/bin/b\n", 0o755);
    root.put("bin/b", b"#!/bin/a\n", 0o755);
    root.refused("a", 126, "nested too deeply");
}

#[test]
fn files_put_into_the_guest_count() {
    let root = Root::new();
    let file = |path: &str| InjectedFile { path: path.into(), mode: 0o755, ..InjectedFile::default() };
    let mut process = ProcessSpec {
        args: vec![b"tool".to_vec()],
        env: vec![b"PATH=/config:/bin".to_vec()],
        cwd: b"/".to_vec(),
        files: vec![file("/config/tool"), file("/bin/nosuch")],
        ..ProcessSpec::default()
    };
    let view = view_of(&[root.dir.path()]);
    assert!(check(&view, &process).is_ok());
    process.args = vec![b"/config/tool".to_vec()];
    assert!(check(&view, &process).is_ok());
    root.put("bin/badscript", b"#!/bin/nosuch\n", 0o755);
    process.args = vec![b"badscript".to_vec()];
    assert!(check(&view_of(&[root.dir.path()]), &process).is_ok(), "an interpreter, too");
}

#[test]
fn exit_codes_of_errno() {
    for (errno, code) in [(libc::ENOENT, 127), (libc::EACCES, 126), (libc::ENOEXEC, 126), (libc::ENOMEM, 125)]
    {
        assert_eq!(exit_code_of(errno), code);
    }
}
