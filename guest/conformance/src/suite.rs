//! Finds the cases: files of `programs/` with a header, and the tables of `programs/commands.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::case::{Case, Header, Link};
use crate::paths;

/// Where the suite's files are in the root file system.
pub const DIR_IN_ROOT: &str = "/conformance";

/// A file that goes into the root file system.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The file in this repository.
    pub source: PathBuf,
    /// Its path below [`DIR_IN_ROOT`].
    pub dest: String,
    /// How to compile it; `None`: it is copied.
    pub link: Option<Link>,
    /// Extra flags for the compiler.
    pub flags: Vec<String>,
}

/// All cases and what they need in the root file system.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    /// The cases, by name.
    pub cases: Vec<Case>,
    /// The microbenchmarks of `bench/`.
    pub benches: Vec<Case>,
    /// The files of the cases and of the benchmarks.
    pub artifacts: Vec<Artifact>,
}

impl Suite {
    /// Reads `programs/` and `bench/` of this crate.
    ///
    /// # Errors
    /// An unreadable file, a header that is not valid, or two cases of one name.
    pub fn discover() -> Result<Self> {
        let mut suite = Self::default();
        let programs = paths::source().join("programs");
        for directory in directories(&programs)? {
            for file in files(&directory)? {
                let relative = file.strip_prefix(&programs)?.with_extension("");
                let name = relative.to_string_lossy().into_owned();
                suite.add_file(&file, &name).with_context(|| format!("{}", file.display()))?;
            }
        }
        let commands = programs.join("commands.toml");
        if let Ok(text) = fs::read_to_string(&commands) {
            let tables: BTreeMap<String, Header> =
                toml::from_str(&text).with_context(|| format!("{}", commands.display()))?;
            for (name, header) in tables {
                suite.cases.push(Case::new(format!("command/{name}"), header.args.clone(), &header));
            }
        }
        for file in files(&paths::source().join("bench"))? {
            let text = fs::read_to_string(&file)?;
            let header = Header::parse(&text)?.with_context(|| format!("{}: no header", file.display()))?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let is_c = file.extension().is_some_and(|extension| extension == "c");
            let dest = if is_c { format!("bench/{name}") } else { format!("bench/{}", file_name(&file)) };
            let mut argv = header.with.clone();
            argv.push(format!("{DIR_IN_ROOT}/{dest}"));
            suite.benches.push(Case::new(name, argv, &header));
            suite.artifacts.push(Artifact {
                source: file,
                dest,
                link: is_c.then_some(Link::Static),
                flags: vec![],
            });
        }
        let source = paths::source().join(crate::cpython::COLLECTOR);
        suite.artifacts.push(Artifact {
            source,
            dest: crate::cpython::COLLECTOR.into(),
            link: None,
            flags: vec![],
        });
        suite.cases.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = suite.cases.windows(2).find(|pair| pair[0].name == pair[1].name) {
            bail!("two cases named {}", pair[0].name);
        }
        Ok(suite)
    }

    fn add_file(&mut self, file: &Path, name: &str) -> Result<()> {
        let text = fs::read_to_string(file)?;
        let header = Header::parse(&text)?;
        if file.extension().is_some_and(|extension| extension == "c") {
            let header = header.context("a C program needs a header")?;
            self.add_c(file, name, &header);
            return Ok(());
        }
        let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        let dest = format!("{directory}/{}", file_name(file));
        if let Some(header) = &header {
            if header.with.is_empty() {
                bail!("a script's header names what runs it: with = [\"/bin/sh\"]");
            }
            for with in &header.with {
                let mut argv: Vec<String> = with.split_whitespace().map(str::to_owned).collect();
                let variant = argv[0].rsplit('/').next().unwrap_or_default().to_owned();
                argv.push(format!("{DIR_IN_ROOT}/{dest}"));
                argv.extend(header.args.iter().cloned());
                let name = if header.with.len() == 1 { name.to_owned() } else { format!("{name}.{variant}") };
                self.cases.push(Case::new(name, argv, header));
            }
        }
        self.artifacts.push(Artifact { source: file.to_path_buf(), dest, link: None, flags: vec![] });
        Ok(())
    }

    fn add_c(&mut self, file: &Path, name: &str, header: &Header) {
        let links = if header.link.is_empty() { vec![Link::Dynamic] } else { header.link.clone() };
        for link in &links {
            let variant = if links.len() == 1 { name.to_owned() } else { format!("{name}.{}", link.word()) };
            let dest = if *link == Link::Shared { format!("{name}.so") } else { variant.clone() };
            if *link != Link::Shared {
                let mut argv = vec![format!("{DIR_IN_ROOT}/{dest}")];
                argv.extend(header.args.iter().cloned());
                self.cases.push(Case::new(variant, argv, header));
            }
            let flags = header.flags.clone();
            self.artifacts.push(Artifact { source: file.to_path_buf(), dest, link: Some(*link), flags });
        }
    }
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The sub-directories of `directory` that hold programs.
fn directories(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(directory)?;
    found.retain(|path| path.is_dir() && path.file_name().is_some_and(|name| name != "include"));
    Ok(found)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(directory)?;
    found.retain(|path| path.is_file() && path.extension().is_some_and(|extension| extension != "h"));
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_readable_and_every_file_is_short() {
        let suite = Suite::discover().unwrap();
        assert!(suite.cases.len() > 50);
        for artifact in &suite.artifacts {
            let lines = fs::read_to_string(&artifact.source).unwrap().lines().count();
            assert!(lines < 600, "{}: {lines} lines", artifact.source.display());
        }
    }
}
