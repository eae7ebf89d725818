//! The text format of a recipe: one directive per line, `#` starts a comment.
//!
//! | directive | meaning |
//! | --- | --- |
//! | `from NAME` | parent image (default: an empty root) |
//! | `package NAME…` | Debian 12 packages, unpacked without their maintainer scripts |
//! | `pip DEST REQUIREMENT…` | wheels for the image's CPython, unpacked to DEST |
//! | `cc SOURCE DEST` | compiles a static C program that lies beside the recipe |
//! | `copy SOURCE DEST` | copies a file that lies beside the recipe |
//! | `link TARGET PATH` | symbolic link, unless PATH exists |
//! | `mkdir MODE PATH` | directory |
//! | `write PATH TEXT` | a file with one line of text |
//! | `busybox` | applet links: all of them in /opt/busybox, missing ones in the usual places |
//! | `run COMMAND` | a shell command inside the root (chroot) |
//! | `ldconfig` | writes /etc/ld.so.cache |
//! | `remove PATH` | removes a file or directory this layer brought |
//! | `optional` | the image may be missing where its parts cannot be had |
//! | `env K=V`, `cmd WORDS`, `entrypoint WORDS`, `workdir PATH` | image configuration, inherited from the parent |
//! | `compress gzip\|none` | how the layer is stored (default gzip) |

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One step that changes the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table tells them")]
pub enum Step {
    Packages(Vec<String>),
    Pip { dest: String, requirements: Vec<String> },
    Cc { source: String, dest: String },
    Copy { source: String, dest: String },
    Link { target: String, path: String },
    Mkdir { mode: u32, path: String },
    Write { path: String, text: String },
    Busybox,
    Run(String),
    Ldconfig,
    Remove(String),
}

/// How a layer's blob is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar: digest and diff id are the same.
    None,
    /// gzip, as most registries hold it.
    #[default]
    Gzip,
}

/// What an image's configuration says beyond its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `K=V`, in order.
    pub env: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Default program.
    pub entrypoint: Vec<String>,
    /// Working directory; empty means `/`.
    pub workdir: String,
}

/// A parsed recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The image's name.
    pub name: String,
    /// The parent image.
    pub from: Option<String>,
    /// What is done to the parent's root, in order.
    pub steps: Vec<Step>,
    /// The configuration (only what this recipe says; the parent's is merged by the builder).
    pub config: Config,
    /// How the layer is stored.
    pub compression: Compression,
    /// Whether a failure to build it is only a warning.
    pub optional: bool,
    /// The recipe's text: part of the stamp that tells whether an image is up to date.
    pub text: String,
}

impl Recipe {
    /// Reads `DIR/NAME.recipe`.
    ///
    /// # Errors
    /// The file cannot be read or holds an unknown directive.
    pub fn read(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(format!("{name}.recipe"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(name, &text).with_context(|| path.display().to_string())
    }

    /// Parses a recipe's text.
    ///
    /// # Errors
    /// An unknown directive or a missing argument; the message carries the line number.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut recipe = Self { name: name.into(), text: text.into(), ..Self::default() };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            recipe.directive(line).with_context(|| format!("line {}: {line}", index + 1))?;
        }
        Ok(recipe)
    }

    fn directive(&mut self, line: &str) -> Result<()> {
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let words = || rest.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        let pair = || -> Result<(String, String)> {
            let (first, second) = rest.split_once(char::is_whitespace).context("two arguments expected")?;
            Ok((first.into(), second.trim().into()))
        };
        match keyword {
            "from" => self.from = Some(rest.into()),
            "package" => match self.steps.last_mut() {
                Some(Step::Packages(packages)) => packages.extend(words()),
                _ => self.steps.push(Step::Packages(words())),
            },
            "pip" => {
                let (dest, _) = pair()?;
                self.steps.push(Step::Pip { dest, requirements: words()[1..].to_vec() });
            }
            "cc" => pair().map(|(source, dest)| self.steps.push(Step::Cc { source, dest }))?,
            "copy" => pair().map(|(source, dest)| self.steps.push(Step::Copy { source, dest }))?,
            "link" => pair().map(|(target, path)| self.steps.push(Step::Link { target, path }))?,
            "write" => pair().map(|(path, text)| self.steps.push(Step::Write { path, text }))?,
            "mkdir" => {
                let (mode, path) = pair()?;
                self.steps.push(Step::Mkdir { mode: u32::from_str_radix(&mode, 8)?, path });
            }
            "optional" => self.optional = true,
            "busybox" => self.steps.push(Step::Busybox),
            "run" => self.steps.push(Step::Run(rest.into())),
            "ldconfig" => self.steps.push(Step::Ldconfig),
            "remove" => self.steps.push(Step::Remove(rest.into())),
            "env" => self.config.env.push(rest.into()),
            "cmd" => self.config.cmd = words(),
            "entrypoint" => self.config.entrypoint = words(),
            "workdir" => self.config.workdir = rest.into(),
            "compress" => {
                self.compression = match rest {
                    "none" => Compression::None,
                    "gzip" => Compression::Gzip,
                    _ => bail!("unknown compression"),
                }
            }
            _ => bail!("unknown directive"),
        }
        Ok(())
    }
}

impl Config {
    /// This configuration on top of a parent's.
    pub fn over(&self, parent: &Self) -> Self {
        let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let mut env: Vec<String> = parent
            .env
            .iter()
            .filter(|old| !self.env.iter().any(|new| key(new) == key(old)))
            .cloned()
            .collect();
        env.extend(self.env.iter().cloned());
        let pick = |own: &Vec<String>, theirs: &Vec<String>| {
            if own.is_empty() { theirs.clone() } else { own.clone() }
        };
        Self {
            env,
            cmd: pick(&self.cmd, &parent.cmd),
            entrypoint: pick(&self.entrypoint, &parent.entrypoint),
            workdir: if self.workdir.is_empty() { parent.workdir.clone() } else { self.workdir.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_directives() {
        let text = "# x\nfrom base\npackage a b\npackage c\nmkdir 1777 /tmp\nwrite /etc/x one two\nenv A=1\ncmd a b\n";
        let recipe = Recipe::parse("n", text).unwrap();
        assert_eq!(recipe.from.as_deref(), Some("base"));
        assert_eq!(recipe.steps[0], Step::Packages(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(recipe.steps[1], Step::Mkdir { mode: 0o1777, path: "/tmp".into() });
        assert_eq!(recipe.steps[2], Step::Write { path: "/etc/x".into(), text: "one two".into() });
        assert_eq!(recipe.config.cmd, ["a", "b"]);
    }

    #[test]
    fn names_the_bad_line() {
        let error = format!("{:#}", Recipe::parse("n", "from base\nfrobnicate\n").unwrap_err());
        assert!(error.contains("line 2: frobnicate"), "{error}");
    }

    #[test]
    fn child_configuration_wins() {
        let parent =
            Config { env: vec!["A=1".into(), "B=2".into()], cmd: vec!["sh".into()], ..Config::default() };
        let child = Config { env: vec!["A=3".into()], ..Config::default() };
        let merged = child.over(&parent);
        assert_eq!(merged.env, ["B=2", "A=3"]);
        assert_eq!(merged.cmd, ["sh"]);
    }
}
