//! containerd's filter expressions (its pkg/filters): which snapshots a List request wants.
//!
//! ```text
//! filter    = selector *( "," selector )         all of them must match
//! selector  = field *( "." field ) [ operator value ]
//! field     = quoted | letter *( letter | digit | "_" )
//! operator  = "==" | "!=" | "~="                 the last: a regular expression
//! value     = quoted | run of characters other than comma and space
//! quoted    = a Go string in double quotes; for values also between | or /
//! ```
//! A selector without operator matches where the field is present.

use regex::Regex;

use super::error::LayersError;
use super::record::Info;

/// A parsed filter.
#[derive(Debug)]
pub struct Filter {
    selectors: Vec<Selector>,
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Unequal(String),
    Matches(Regex),
}

/// Whether any of `filters` matches; no filters: everything does.
#[must_use]
pub fn any_matches(filters: &[Filter], info: &Info) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(info))
}

impl Filter {
    /// Parses one filter.
    ///
    /// # Errors
    /// [`LayersError::Invalid`], with the position.
    pub fn parse(text: &str) -> Result<Self, LayersError> {
        let mut parser = Parser { text, at: 0 };
        let mut selectors = Vec::new();
        // An empty filter matches everything.
        while parser.at < text.len() {
            selectors.push(parser.selector()?);
            if parser.at < text.len() && !parser.take(",") {
                return Err(parser.fail("expected a comma"));
            }
        }
        Ok(Self { selectors })
    }

    /// Whether `info` matches.
    #[must_use]
    pub fn matches(&self, info: &Info) -> bool {
        self.selectors.iter().all(|selector| {
            let value = field(info, &selector.path);
            match &selector.test {
                Test::Present => value.is_some(),
                Test::Equal(wanted) => value == Some(wanted),
                Test::Unequal(other) => value.unwrap_or("") != other,
                Test::Matches(regex) => value.is_some_and(|value| regex.is_match(value)),
            }
        })
    }
}

fn field<'i>(info: &'i Info, path: &[String]) -> Option<&'i str> {
    match path.first()?.as_str() {
        "kind" => Some(info.kind.as_str()),
        "name" => Some(&info.key),
        "parent" => Some(&info.parent),
        "labels" => info.labels.get(&path[1..].join(".")).map(String::as_str),
        _ => None,
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn fail(&self, what: &str) -> LayersError {
        LayersError::Invalid { what: format!("filter {:?}: {what} at byte {}", self.text, self.at) }
    }

    fn selector(&mut self) -> Result<Selector, LayersError> {
        let mut path = vec![self.field()?];
        while self.take(".") {
            path.push(self.field()?);
        }
        let test = if self.take("==") {
            Test::Equal(self.value()?)
        } else if self.take("!=") {
            Test::Unequal(self.value()?)
        } else if self.take("~=") {
            let value = self.value()?;
            Test::Matches(Regex::new(&value).map_err(|error| self.fail(&error.to_string()))?)
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, LayersError> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let len =
            self.rest().find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        let name = self.rest()[..len].to_owned();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.fail("expected a field's name"));
        }
        self.at += len;
        Ok(name)
    }

    fn value(&mut self) -> Result<String, LayersError> {
        match self.rest().chars().next() {
            Some('"') => self.quoted(),
            Some(delimiter @ ('|' | '/')) => {
                let body = &self.rest()[1..];
                let end = body.find(delimiter).ok_or_else(|| self.fail("unterminated value"))?;
                let value = body[..end].to_owned();
                self.at += end + 2;
                Ok(value)
            }
            _ => {
                let len = self.rest().find([',', ' ', '\t']).unwrap_or(self.rest().len());
                let value = self.rest()[..len].to_owned();
                self.at += len;
                if value.is_empty() { Err(self.fail("expected a value")) } else { Ok(value) }
            }
        }
    }

    /// A Go string in double quotes.
    fn quoted(&mut self) -> Result<String, LayersError> {
        let mut value = Vec::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return String::from_utf8(value).map_err(|_| self.fail("not UTF-8"));
                }
                '\\' => {
                    let (_, escape) = chars.next().ok_or_else(|| self.fail("unterminated string"))?;
                    let mut digits = |count: usize, radix: u32| {
                        let mut code = 0;
                        for _ in 0..count {
                            code = code * radix + chars.next()?.1.to_digit(radix)?;
                        }
                        Some(code)
                    };
                    let push = |value: &mut Vec<u8>, c: char| {
                        value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    };
                    match escape {
                        'n' => value.push(b'\n'),
                        't' => value.push(b'\t'),
                        'r' => value.push(b'\r'),
                        'a' => value.push(7),
                        'b' => value.push(8),
                        'f' => value.push(12),
                        'v' => value.push(11),
                        '\\' | '"' | '\'' => push(&mut value, escape),
                        'x' => match digits(2, 16) {
                            Some(code) => value.push(code as u8),
                            None => return Err(self.fail("bad escape")),
                        },
                        'u' | 'U' => {
                            let code = digits(if escape == 'u' { 4 } else { 8 }, 16);
                            match code.and_then(char::from_u32) {
                                Some(c) => push(&mut value, c),
                                None => return Err(self.fail("bad escape")),
                            }
                        }
                        _ => return Err(self.fail("bad escape")),
                    }
                }
                c => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(self.fail("unterminated string"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::layers::record::{Kind, Timestamp};

    fn info() -> Info {
        let labels = [("a.b/c", "1"), ("containerd.io/snapshot.ref", "sha256:00"), ("plain", "x y")];
        Info {
            key: "default/3/one".into(),
            parent: "default/1/base".into(),
            kind: Kind::Active,
            created: Timestamp::default(),
            updated: Timestamp::default(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn what_matches() {
        for text in [
            "",
            "kind==active",
            "kind!=committed",
            "name==default/3/one",
            "name~=^default/[0-9]+/",
            "parent==\"default/1/base\",kind==active",
            "labels.plain",
            "labels.plain==\"x y\"",
            "labels.\"a.b/c\"==1",
            r#"labels."containerd.io/snapshot.ref"==sha256:00,parent=="default/1/base""#,
            "labels.\"a.b/c\"~=|^[0-9]$|",
            "labels.none!=1",
            r#"name=="\x64efault/3/on\u0065""#,
        ] {
            assert!(Filter::parse(text).unwrap().matches(&info()), "{text}");
        }
    }

    #[test]
    fn what_does_not_match() {
        for text in
            ["kind==view", "kind==active,name==x", "labels.none", "labels.plain==x", "other", "name~=^x"]
        {
            assert!(!Filter::parse(text).unwrap().matches(&info()), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter() {
        for text in
            ["==x", "name==", "name=x", "name==\"x", "name~=(", "1x==y", "name==x y", "a..b", "\"\\q\""]
        {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.to_string().contains("filter"), "{text}: {error}");
        }
    }
}
