//! One case, and the header that tells about it.
//!
//! A program's first comment lines hold TOML: `//: ` in C, `#: ` in scripts. Cases without a file of their own are tables of
//! `programs/commands.toml` with the same keys.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The milestone of LINUX-ABI.md that a case belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[allow(missing_docs, reason = "LINUX-ABI.md tells them")]
pub enum Group {
    A,
    B,
    C,
    D,
    E,
    F,
    G,
}

impl Group {
    /// Parses `A`, `b`, ….
    ///
    /// # Errors
    /// Not a milestone's letter.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_uppercase().as_str() {
            "A" => Self::A,
            "B" => Self::B,
            "C" => Self::C,
            "D" => Self::D,
            "E" => Self::E,
            "F" => Self::F,
            "G" => Self::G,
            _ => bail!("no such group: {text}"),
        })
    }
}

/// How a C program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// At a fixed address, without an interpreter.
    Static,
    /// Relocates itself.
    StaticPie,
    /// Through the image's own ld.so.
    Dynamic,
    /// A shared object; no case of its own.
    Shared,
}

impl Link {
    /// The word that tells variants of one program apart.
    pub fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::StaticPie => "static-pie",
            Self::Dynamic => "dynamic",
            Self::Shared => "so",
        }
    }
}

/// A change made to the output of both sides before they are compared. Each is a defect of the case: print facts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Every run of digits becomes `N` (messages that hold a pid).
    Digits,
    /// Lines are sorted (several processes write at once).
    SortLines,
}

/// The keys of a header or of a table in `commands.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Header {
    /// The milestone.
    pub group: Group,
    /// What it shows, in one line.
    pub summary: String,
    /// How a C program is linked; one case for each.
    #[serde(default)]
    pub link: Vec<Link>,
    /// What runs a script, with arguments; one case for each.
    #[serde(default)]
    pub with: Vec<String>,
    /// Arguments; in `commands.toml` the program comes first.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment beyond PATH, HOME and LANG.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Standard input; /dev/null when absent.
    pub stdin: Option<String>,
    /// The guest's memory (`512M`).
    pub memory: Option<String>,
    /// Hold the program on Linux to `memory` too, with a memory cgroup.
    #[serde(default)]
    pub limit_memory: bool,
    /// Seconds that each side may take.
    pub timeout: Option<u64>,
    /// The exit status that Linux gives (0).
    #[serde(default)]
    pub status: i32,
    /// Paths of the root file system without which the case is skipped.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Flags for the compiler, after the usual ones.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Changes made to the output before comparing.
    #[serde(default)]
    pub normalise: Vec<Normalise>,
    /// Why the guest is known to differ: the case then counts as skipped, and fails once the guest agrees.
    pub known_failure: Option<String>,
}

impl Header {
    /// Reads the header of a program's text. `None`: the file has none and is no case.
    ///
    /// # Errors
    /// The header is not TOML with the keys above.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let lines: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("//: ").or_else(|| line.strip_prefix("#: ")))
            .collect();
        if lines.is_empty() {
            return Ok(None);
        }
        toml::from_str(&lines.join("\n")).map(Some).context("the header is not valid")
    }
}

/// A program that runs on both sides.
#[derive(Clone, Debug)]
pub struct Case {
    /// `directory/program`, with `.VARIANT` when there are several.
    pub name: String,
    /// The milestone.
    pub group: Group,
    /// What it shows.
    pub summary: String,
    /// Program and arguments, as paths of the root file system.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Standard input.
    pub stdin: Option<Vec<u8>>,
    /// The guest's memory.
    pub memory: String,
    /// Hold the program on Linux to `memory` too.
    pub limit_memory: bool,
    /// How long each side may take.
    pub timeout: Duration,
    /// The exit status that Linux must give, so that two equal failures are no success.
    pub status: i32,
    /// Paths without which it is skipped.
    pub needs: Vec<String>,
    /// Changes made to the output before comparing.
    pub normalise: Vec<Normalise>,
    /// Why the guest is known to differ.
    pub known_failure: Option<String>,
}

impl Case {
    /// A case from its header.
    pub fn new(name: String, argv: Vec<String>, header: &Header) -> Self {
        let common =
            [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];
        let common = common.into_iter().chain([("LANG", "C.UTF-8")]);
        let mut env: Vec<(String, String)> = common
            .filter(|(key, _)| !header.env.contains_key(*key))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        env.extend(header.env.iter().map(|(key, value)| (key.clone(), value.clone())));
        // As std's Command hands it on: both sides then see one order.
        env.sort();
        let mut needs = header.needs.clone();
        needs.extend(argv.first().cloned());
        Self {
            name,
            group: header.group,
            summary: header.summary.clone(),
            argv,
            env,
            stdin: header.stdin.as_ref().map(|text| text.clone().into_bytes()),
            memory: header.memory.clone().unwrap_or_else(|| "512M".into()),
            limit_memory: header.limit_memory,
            timeout: Duration::from_secs(header.timeout.unwrap_or(60)),
            status: header.status,
            needs,
            normalise: header.normalise.clone(),
            known_failure: header.known_failure.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_of_c_and_of_scripts() {
        let c = "//: group = \"B\"\n//: summary = \"pipes\"\n//: link = [\"static\", \"dynamic\"]\n#include <x.h>\n";
        let header = Header::parse(c).unwrap().unwrap();
        assert_eq!((header.group, header.link.len()), (Group::B, 2));
        let script = "#: group = \"A\"\n#: summary = \"x\"\necho\n";
        assert_eq!(Header::parse(script).unwrap().unwrap().group, Group::A);
    }

    #[test]
    fn no_header_is_no_case_and_a_wrong_key_is_an_error() {
        assert!(Header::parse("int x;\n").unwrap().is_none());
        assert!(Header::parse("//: group = \"B\"\n//: summary = \"x\"\n//: grope = 1\n").is_err());
    }
}
