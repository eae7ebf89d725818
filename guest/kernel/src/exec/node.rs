//! Node.js: a module of ours is loaded before the program's, since what Node.js keeps of random numbers in JavaScript can be reached from JavaScript only.
//!
//! Node.js loads what NODE_OPTIONS says. The module takes that out of `process.env` again, so that neither the program nor its children see it; /proc/PID/environ does. `seuss.dev/hooks: "off"` does without.

use super::Loader;
use alloc::vec::Vec;

/// Where the module is in every guest, and what it says.
pub const MODULE_NAME: &str = "seuss.cjs";
/// Its text.
pub const MODULE: &str = include_str!("node.cjs");

const MODULE_PATH: &[u8] = b"/dev/seuss.cjs";
/// What is added to NODE_OPTIONS. The module knows it.
const OPTION: &[u8] = b"--require=/dev/seuss.cjs";
const VARIABLE: &[u8] = b"NODE_OPTIONS=";

/// Options with which Node.js would refuse the module, or do something else than run a program.
const REFUSING: [&[u8]; 5] = [
    b"--permission",
    b"--experimental-permission",
    b"--experimental-policy",
    b"--policy-integrity",
    b"--build-snapshot",
];

/// Whether the executable at `path` is Node.js, by its name.
#[must_use]
pub fn is_node(path: &[u8]) -> bool {
    matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"node" | b"nodejs"))
}

fn refuses(option: &[u8]) -> bool {
    REFUSING
        .iter()
        .any(|refusing| option.strip_prefix(*refusing).is_some_and(|rest| matches!(rest, [] | [b'=', ..])))
}

/// The environment of a program at `path`: with the module in it if the program is Node.js and can load it.
#[must_use]
pub fn with_module(loader: &dyn Loader, path: &[u8], args: &[Vec<u8>], env: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if !is_node(path) || !loader.can_read(MODULE_PATH) || args.iter().any(|arg| refuses(arg)) {
        return env;
    }
    let mut env = env;
    match env.iter_mut().find(|entry| entry.starts_with(VARIABLE)) {
        Some(entry) => {
            let options = &entry[VARIABLE.len()..];
            if options.split(|byte| *byte == b' ').any(|option| refuses(option) || option == OPTION) {
                return env;
            }
            entry.push(b' ');
            entry.extend_from_slice(OPTION);
        }
        None => env.push([VARIABLE, OPTION].concat()),
    }
    env
}

/// Whether the module is in an environment.
#[must_use]
pub fn has_module(env: &[Vec<u8>]) -> bool {
    let options = env.iter().find_map(|entry| entry.strip_prefix(VARIABLE)).unwrap_or_default();
    options.split(|byte| *byte == b' ').any(|option| option == OPTION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::{Errno, Result};
    use crate::exec::elf::Binary;
    use alloc::rc::Rc;

    struct Place(bool);

    impl Loader for Place {
        fn open(&self, _path: &[u8]) -> Result<(Rc<dyn Binary>, Vec<u8>)> {
            Err(Errno::ENOENT)
        }

        fn can_read(&self, path: &[u8]) -> bool {
            self.0 && path == MODULE_PATH
        }
    }

    fn environment(path: &str, args: &[&str], env: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        let env = with_module(&Place(true), path.as_bytes(), &owned(args), owned(env));
        env.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect()
    }

    #[test]
    fn node_gets_the_module_behind_its_own_options() {
        assert_eq!(
            environment("/usr/bin/node", &["node", "a.js"], &["A=1"]),
            ["A=1", "NODE_OPTIONS=--require=/dev/seuss.cjs"]
        );
        assert_eq!(
            environment("/usr/bin/nodejs", &["x"], &["NODE_OPTIONS=--max-old-space-size=64", "B="]),
            ["NODE_OPTIONS=--max-old-space-size=64 --require=/dev/seuss.cjs", "B="]
        );
        // Inherited from a parent that has not taken it out.
        let env = ["NODE_OPTIONS=--require=/dev/seuss.cjs"];
        assert_eq!(environment("/bin/node", &["node"], &env), env);
    }

    #[test]
    fn others_and_those_that_would_refuse_it_do_not() {
        for path in ["/usr/bin/python3", "/usr/bin/node-gyp", "/node/bin/npm", ""] {
            assert_eq!(environment(path, &["x"], &["A=1"]), ["A=1"], "{path}");
        }
        for option in
            ["--permission", "--experimental-permission", "--experimental-policy=p.json", "--build-snapshot"]
        {
            assert_eq!(environment("/bin/node", &["node", option], &[]), [""; 0], "{option}");
            let env = format!("NODE_OPTIONS=--no-warnings {option}");
            assert_eq!(environment("/bin/node", &["node"], &[&env]), [env.as_str()]);
        }
        assert_eq!(environment("/bin/node", &["node", "--permissions"], &[]).len(), 1);
        assert_eq!(
            with_module(&Place(false), b"/bin/node", &[], Vec::new()),
            Vec::<Vec<u8>>::new(),
            "no /dev"
        );
    }
}
