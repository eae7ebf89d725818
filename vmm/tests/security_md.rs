//! docs/security.md: its table of system calls is rendered from the lists that make the filters.

use std::path::PathBuf;

const BEGIN: &str = "<!-- calls: begin -->\n";
const END: &str = "<!-- calls: end -->";
const BLESS: &str = "SEUSS_BLESS=1 cargo nextest run -p seuss-vmm security_md";

#[test]
fn security_md_tells_the_filters() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (committed, after) = rest.split_once(END).expect("where the table ends");
    let rendered = format!("\n{}\n", seuss_vmm::confine::table());
    if std::env::var_os("SEUSS_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{rendered}{END}{after}")).unwrap();
        return;
    }
    let differs = rendered.lines().zip(committed.lines()).find(|(new, old)| new != old);
    assert!(
        rendered == committed,
        "docs/security.md does not have the filters' calls (first difference, new and old: {differs:?}): {BLESS}"
    );
}
