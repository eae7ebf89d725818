//! The keys of snapshots: digests of everything that a program was started with and that may not differ in a clone.
//!
//! What differs from pod to pod (identity) is left out, and given to a clone as it wakes up: host name, resolv.conf and hosts, the
//! service account's token, some environment variables. Whose pod it is counts: the tenant, and the service account that the token names.

use super::account;
use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_snapshotter::snapshot::{ImageRef, store::sha256};

/// Changed when the meaning of a key changes, so that old snapshots do not fit.
const VERSION: &[u8] = b"seuss key 2";

/// Files that are a pod's own.
const IDENTITY_FILES: [&[u8]; 4] =
    [b"/etc/hostname", b"/etc/hosts", b"/etc/resolv.conf", b"/dev/termination-log"];
/// Directories whose files are a pod's own.
pub(super) const IDENTITY_DIRS: [&[u8]; 2] =
    [b"/run/secrets/kubernetes.io/serviceaccount/", b"/var/run/secrets/kubernetes.io/serviceaccount/"];

/// What a key stands for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The Kubernetes namespace, or what stands for one.
    pub tenant: &'a str,
    /// The root file system.
    pub images: &'a [ImageRef],
    /// The program, its arguments, environment, files.
    pub process: &'a ProcessSpec,
    /// Size of the guest.
    pub memory_bytes: u64,
    /// Names of environment variables that do not count.
    pub identity_env: &'a [String],
}

/// Fields, one after the other, each with its length: no two lists of fields are the same bytes.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, field: &[u8]) {
        self.0.extend_from_slice(&(field.len() as u64).to_le_bytes());
        self.0.extend_from_slice(field);
    }

    fn number(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    fn list<'a>(&mut self, fields: impl Iterator<Item = &'a [u8]>) {
        let fields: Vec<_> = fields.collect();
        self.number(fields.len() as u64);
        fields.into_iter().for_each(|field| self.put(field));
    }

    fn key(&self, level: &str) -> String {
        let digest: String = sha256(&self.0).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{level}:{digest}")
    }
}

/// Whether a file is a pod's own.
#[must_use]
pub fn is_identity_file(file: &InjectedFile) -> bool {
    let path = file.path.as_slice();
    IDENTITY_FILES.contains(&path) || IDENTITY_DIRS.iter().any(|dir| path.starts_with(dir))
}

/// Whether an entry of the environment is one of `names`.
#[must_use]
pub fn is_identity_env(entry: &[u8], names: &[String]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    names.iter().any(|known| known.as_bytes() == name)
}

/// The key of function snapshots.
#[must_use]
pub fn function(subject: &Subject<'_>) -> String {
    let mut fields = fields(subject, subject.images);
    for file in subject.process.files.iter().filter(|file| !is_identity_file(file)) {
        fields.put(&file.path);
        fields.number(u64::from(file.mode));
        fields.number(u64::from(file.read_only));
        fields.put(&file.content);
    }
    fields.key("function")
}

/// The key of base snapshots, taken when nothing but the first `runtime_layers` of the root file system has been looked at. The contents of mounted
/// files do not count: a clone gets its own.
fn base(subject: &Subject<'_>, runtime_layers: usize) -> String {
    let images = subject.images.get(..runtime_layers).unwrap_or(subject.images);
    let mut fields = fields(subject, images);
    fields.list(subject.process.files.iter().map(|file| file.path.as_slice()));
    fields.key("base")
}

/// The keys of base snapshots over the lowest image, the two lowest, and so on: all that leave an image above the runtime's.
#[must_use]
pub fn bases(subject: &Subject<'_>) -> Vec<String> {
    (1..subject.images.len()).map(|runtime_layers| base(subject, runtime_layers)).collect()
}

fn fields(subject: &Subject<'_>, images: &[ImageRef]) -> Fields {
    let process = subject.process;
    let mut fields = Fields::default();
    fields.put(VERSION);
    fields.put(subject.tenant.as_bytes());
    fields.list(account::of(&process.files).iter().map(Vec::as_slice));
    fields.list(images.iter().map(|image| image.digest.as_slice()));
    fields.list(process.args.iter().map(Vec::as_slice));
    // Of identity the names count: a clone can be given another value of a variable, but no other variable.
    let env = process.env.iter().map(|entry| match entry.iter().position(|byte| *byte == b'=') {
        Some(end) if is_identity_env(entry, subject.identity_env) => &entry[..end],
        _ => entry.as_slice(),
    });
    fields.list(env);
    fields.put(&process.cwd);
    let limits = [process.nofile, process.nproc, subject.memory_bytes];
    let flags = [process.read_only_root, process.terminal, process.no_hooks].map(u64::from);
    let owner = [process.uid, process.gid, process.umask].map(u64::from);
    owner.into_iter().chain(limits).chain(flags).for_each(|number| fields.number(number));
    fields.number(process.groups.len() as u64);
    process.groups.iter().for_each(|group| fields.number(u64::from(*group)));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> ProcessSpec {
        let file = |path: &str, content: &str| InjectedFile {
            path: path.into(),
            mode: 0o644,
            read_only: true,
            content: content.into(),
        };
        ProcessSpec {
            args: vec![b"python3".to_vec(), b"app.py".to_vec()],
            env: vec![b"HOSTNAME=a-1".to_vec(), b"X=1".to_vec()],
            files: vec![file("/etc/hosts", "1"), file("/config/a", "1")],
            ..ProcessSpec::default()
        }
    }

    fn keys(images: &[u8], change: impl Fn(&mut ProcessSpec)) -> [String; 2] {
        let images: Vec<_> =
            images.iter().map(|&byte| ImageRef { digest: [byte; 32], len_bytes: 1 }).collect();
        let mut process = process();
        change(&mut process);
        let identity_env = ["HOSTNAME".to_owned()];
        let subject = Subject {
            tenant: "default",
            images: &images,
            process: &process,
            memory_bytes: 1 << 20,
            identity_env: &identity_env,
        };
        [bases(&subject)[0].clone(), function(&subject)]
    }

    #[test]
    fn identity_does_not_count() {
        let known = keys(&[1, 2], |_| {});
        assert_ne!(known[0], known[1]);
        let other = keys(&[1, 2], |process| {
            process.env[0] = b"HOSTNAME=a-2".to_vec();
            process.files[0].content = b"2".to_vec();
            process.hostname = b"a-2".to_vec();
            process.stdio = [7, 8, 9];
        });
        assert_eq!(known, other);
    }

    #[test]
    fn everything_else_counts() {
        let known = keys(&[1, 2], |_| {});
        let changes: [fn(&mut ProcessSpec); 9] = [
            |process| drop(process.env.remove(0)),
            |process| process.args[1] = b"other.py".to_vec(),
            // Moved from one field to the next.
            |process| process.args = vec![b"python3".to_vec(), b"app.p".to_vec(), b"y".to_vec()],
            |process| process.env[1] = b"X=2".to_vec(),
            |process| process.uid = 1,
            |process| process.groups = vec![5],
            |process| process.cwd = b"/srv".to_vec(),
            |process| process.read_only_root = true,
            |process| process.no_hooks = true,
        ];
        for change in changes {
            let [base, function] = keys(&[1, 2], change);
            assert!(base != known[0] && function != known[1]);
        }
    }

    #[test]
    fn whose_pod_it_is_counts() {
        let key = |tenant: &str, token: &str| {
            let mut process = process();
            let path = [IDENTITY_DIRS[1], b"token"].concat();
            process.files.push(InjectedFile { path, mode: 0o644, read_only: true, content: token.into() });
            let images = [1, 2].map(|byte| ImageRef { digest: [byte; 32], len_bytes: 1 });
            let subject = Subject {
                tenant,
                images: &images,
                process: &process,
                memory_bytes: 1 << 20,
                identity_env: &[],
            };
            [bases(&subject)[0].clone(), function(&subject)]
        };
        let known = key("red", "one");
        for other in [key("blue", "one"), key("red", "two")] {
            assert!(other[0] != known[0] && other[1] != known[1]);
        }
        assert_eq!(key("red", "one"), known);
    }

    #[test]
    fn a_base_snapshot_fits_other_applications_over_the_same_runtime() {
        let known = keys(&[1, 2], |_| {});
        let [base, function] = keys(&[1, 3], |process| process.files[1].content = b"2".to_vec());
        assert_eq!(base, known[0]);
        assert_ne!(function, known[1]);
        assert_ne!(keys(&[9, 2], |_| {})[0], known[0]);
        assert_ne!(keys(&[1, 2], |process| process.files[1].content = b"2".to_vec())[1], known[1]);
    }
}
