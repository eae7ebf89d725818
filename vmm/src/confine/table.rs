//! The lists of calls as a table for people: a part of docs/security.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Role;
use super::calls::{REFUSED, Rule, groups};

/// The roles and what they may call, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| role | calls | system calls |\n| --- | --- | --- |\n");
    for role in Role::ALL {
        let mut calls: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for call in groups(role).iter().flat_map(|group| *group) {
            calls.entry(call.name).or_default().extend(condition(call.rule));
        }
        let _ = write!(text, "| `{}` | {} | ", role.name(), calls.len());
        for (at, (name, conditions)) in calls.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{name}");
            if !conditions.is_empty() {
                let _ = write!(text, " ({})", conditions.join(", "));
            }
        }
        text.push_str(" |\n");
    }
    let error = |errno: i32| match errno {
        libc::ENOSYS => "ENOSYS",
        libc::EPERM => "EPERM",
        _ => "EACCES",
    };
    let refused: Vec<_> =
        REFUSED.iter().map(|(_, name, errno)| format!("{name} ({})", error(*errno))).collect();
    let _ = writeln!(
        text,
        "\nRefused without consequences, where a role does not allow them: {}.",
        refused.join(", ")
    );
    text
}

fn condition(rule: Rule) -> Vec<String> {
    match rule {
        Rule::Any => Vec::new(),
        Rule::OneOf { values, .. } => values.iter().map(|(_, name)| (*name).to_owned()).collect(),
        Rule::Both { name, .. } => vec![name.to_owned()],
        Rule::Without { name, .. } => vec![format!("without {name}")],
        Rule::With { name, .. } => vec![format!("with {}", name.replace('|', " and "))],
        Rule::OwnProcess { .. } => vec!["this process".to_owned()],
    }
}
