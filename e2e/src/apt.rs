//! Debian packages of any suite, without touching the base system.
//!
//! A private apt: its own state, cache and package lists below the harness's cache, and sources derived from the machine's
//! own Debian sources with the suite replaced. Packages are downloaded and unpacked, never installed. The derived sources
//! are handed to apt in a memfd, so that no mirror's address is written to any file. What has been downloaded once is never
//! asked for again: the second run needs no network.
//!
//! Reference: sources.list(5), apt.conf(5).

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{command, paths, progress};

/// Package lists older than this are fetched again before something new is downloaded.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// One line of sources in the one-line style of sources.list(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    options: String,
    uri: String,
    suite: String,
    components: String,
}

/// A private apt for one Debian suite.
#[derive(Debug)]
pub struct PrivateApt {
    suite: String,
    dir: PathBuf,
}

impl PrivateApt {
    /// A private apt for `suite` ("bookworm", "trixie", "sid") below the harness's cache.
    pub fn new(suite: &str) -> Self {
        Self { suite: suite.to_owned(), dir: paths::cache().join("apt").join(suite) }
    }

    /// The .deb files of `packages`, in the order asked for; downloads what the cache does not hold.
    ///
    /// # Errors
    /// No Debian source on this machine, no network while something is missing, or an unknown package.
    pub fn fetch(&self, packages: &[impl AsRef<str>]) -> Result<Vec<PathBuf>> {
        let debs = self.dir.join("debs");
        fs::create_dir_all(&debs)?;
        let missing: Vec<&str> =
            packages.iter().map(AsRef::as_ref).filter(|package| find_deb(&debs, package).is_none()).collect();
        if !missing.is_empty() {
            progress::detail(format!("downloading from Debian {}: {}", self.suite, missing.join(" ")));
            self.download(&missing, &debs).with_context(|| {
                format!("cannot download from Debian {}: {}", self.suite, missing.join(" "))
            })?;
        }
        packages
            .iter()
            .map(AsRef::as_ref)
            .map(|package| {
                find_deb(&debs, package).with_context(|| format!("apt left no file for {package}"))
            })
            .collect()
    }

    /// Unpacks `packages` into `dir` as `dpkg-deb -x` does (no maintainer scripts run).
    ///
    /// # Errors
    /// As [`Self::fetch`], or the disk is full.
    pub fn unpack(&self, packages: &[impl AsRef<str>], dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        for deb in self.fetch(packages)? {
            command::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
        }
        Ok(())
    }

    fn download(&self, packages: &[&str], into: &Path) -> Result<()> {
        let partial = self.dir.join("partial");
        fs::create_dir_all(&partial)?;
        if self.lists_age().is_none_or(|age| age > LISTS_MAX_AGE) {
            self.update()?;
        }
        let args: Vec<&str> = std::iter::once("download").chain(packages.iter().copied()).collect();
        let try_download = || self.apt_get(&partial, &args);
        if try_download().is_err() {
            // The lists may name versions that the archive no longer holds.
            self.update()?;
            try_download()?;
        }
        for entry in fs::read_dir(&partial)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                fs::rename(entry.path(), into.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn update(&self) -> Result<()> {
        progress::detail(format!("reading the package lists of Debian {}", self.suite));
        self.apt_get(&self.dir, &["update"])?;
        File::create(self.dir.join("lists.stamp"))?;
        Ok(())
    }

    fn lists_age(&self) -> Option<Duration> {
        let modified = fs::metadata(self.dir.join("lists.stamp")).ok()?.modified().ok()?;
        SystemTime::now().duration_since(modified).ok()
    }

    /// Runs `apt-get` in `dir` with the private configuration.
    fn apt_get(&self, dir: &Path, args: &[&str]) -> Result<()> {
        let state = self.dir.join("state");
        let cache = self.dir.join("cache");
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(cache.join("archives/partial"))?;
        fs::write(state.join("status"), "")?;
        let config = self.dir.join("apt.conf");
        fs::write(&config, apt_config(&state, &cache))?;

        // No CLOEXEC: apt opens it as /proc/self/fd/N. It lives until apt has ended.
        let mut sources = File::from(memfd_create("sources.list", MemfdFlags::empty())?);
        for source in machine_sources(&self.suite)? {
            writeln!(sources, "deb {}{} {} {}", source.options, source.uri, source.suite, source.components)?;
        }
        sources.seek(SeekFrom::Start(0))?;

        let mut apt = Command::new("apt-get");
        apt.current_dir(dir).env("LC_ALL", "C").arg("-c").arg(&config).arg("-qq");
        apt.arg("-o").arg(format!("Dir::Etc::sourcelist=/proc/self/fd/{}", sources.as_raw_fd()));
        command::run(apt.args(args))
    }
}

/// The apt.conf(5) text that separates the private apt from the machine's: hooks cleared, own directories.
fn apt_config(state: &Path, cache: &Path) -> String {
    let (state, cache) = (state.display(), cache.display());
    format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{cache}";
Dir::Cache::archives "{cache}/archives";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"#
    )
}

/// The machine's Debian sources with the suite replaced by `suite`.
fn machine_sources(suite: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for (path, text) in source_files() {
        let deb822 = path.extension().is_some_and(|extension| extension == "sources");
        sources.extend(if deb822 { parse_deb822(&text) } else { parse_one_line(&text) });
    }
    let sources = for_suite(&sources, suite);
    if sources.is_empty() {
        bail!(
            "no Debian source with component main in /etc/apt: packages of Debian {suite} cannot be fetched"
        );
    }
    Ok(sources)
}

/// /etc/apt/sources.list and the files of sources.list.d, in apt's order.
fn source_files() -> Vec<(PathBuf, String)> {
    let parts =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<PathBuf> = parts
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
        })
        .collect();
    parts.sort();
    std::iter::once(PathBuf::from("/etc/apt/sources.list"))
        .chain(parts)
        .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect()
}

/// Keeps the sources of the machine's own suite as they are (updates and security included); for another suite, takes the
/// first one and replaces its suite.
fn for_suite(sources: &[Source], suite: &str) -> Vec<Source> {
    let debian_main = |source: &&Source| {
        let plain = source.suite.split('-').next().unwrap_or_default();
        source.components.split_whitespace().any(|component| component == "main")
            && ["bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"].contains(&plain)
    };
    let debian: Vec<&Source> = sources.iter().filter(debian_main).collect();
    let own: Vec<Source> = debian
        .iter()
        .filter(|source| {
            source.suite == suite
                || source.suite.strip_prefix(suite).is_some_and(|rest| rest.starts_with('-'))
        })
        .map(|source| Source { components: "main".into(), ..(*source).clone() })
        .collect();
    if !own.is_empty() {
        return own;
    }
    let first = debian.iter().find(|source| !source.suite.contains('-'));
    first
        .map(|source| Source { suite: suite.into(), components: "main".into(), ..(*source).clone() })
        .into_iter()
        .collect()
}

/// Parses the one-line style; what is not a `deb` line is left out.
fn parse_one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            let components = words.collect::<Vec<_>>().join(" ");
            sources.push(Source { options, uri: uri.into(), suite: suite.into(), components });
        }
    }
    sources
}

/// Parses the deb822 style: one [`Source`] per URI and suite.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let enabled = field("Enabled").is_none_or(|value| value != "no");
        let is_binary =
            field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        let (Some(uris), Some(suites), true, true) = (field("URIs"), field("Suites"), enabled, is_binary)
        else {
            continue;
        };
        let options = match field("Signed-By") {
            Some(key) if !key.is_empty() && key.starts_with('/') => format!("[signed-by={key}] "),
            _ => String::new(),
        };
        for uri in uris.split_whitespace() {
            for suite in suites.split_whitespace() {
                let components = field("Components").unwrap_or_default().to_owned();
                sources.push(Source {
                    options: options.clone(),
                    uri: uri.into(),
                    suite: suite.into(),
                    components,
                });
            }
        }
    }
    sources
}

/// The downloaded file of `package`, if there is one.
fn find_deb(debs: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{package}_");
    let mut found: Vec<PathBuf> = fs::read_dir(debs)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\n# URIs: http://ignored.example\nURIs: http://main.example/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main contrib\nSigned-By: /k.gpg\n\n\
        Types: deb\nURIs: http://main.example/security\nSuites: bookworm-security\nComponents: main\n";

    #[test]
    fn own_suite_keeps_updates_and_security() {
        let sources = for_suite(&parse_deb822(DEB822), "bookworm");
        let suites: Vec<&str> = sources.iter().map(|source| source.suite.as_str()).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
        assert_eq!(sources[0].options, "[signed-by=/k.gpg] ");
        assert_eq!(sources[2].uri, "http://main.example/security");
    }

    #[test]
    fn other_suite_replaces_the_first() {
        let sources = for_suite(&parse_deb822(DEB822), "sid");
        assert_eq!(sources.len(), 1);
        assert_eq!(
            (sources[0].suite.as_str(), sources[0].uri.as_str()),
            ("sid", "http://main.example/debian")
        );
    }

    #[test]
    fn one_line_style_with_options() {
        let text = "# deb http://no.example x main\ndeb [arch=amd64 signed-by=/k] http://a.example/debian bookworm main\n\
            deb-src http://a.example/debian bookworm main\n";
        let sources = parse_one_line(text);
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].options, "[arch=amd64 signed-by=/k] ");
        assert_eq!(for_suite(&sources, "trixie")[0].suite, "trixie");
    }

    #[test]
    fn other_distributions_are_no_source() {
        let text = "deb http://a.example/ubuntu noble main\ndeb http://b.example nodistro main\n";
        assert!(for_suite(&parse_one_line(text), "sid").is_empty());
    }
}
