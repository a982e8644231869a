//! Checks that the comparison is complete: reads the crate's sources and fails when an item whose documentation begins
//! with a C name, or a field of such a structure, has no row.

use crate::{constants, expressions, structures};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// C items that our sources name and no header at hand has.
const WITHOUT_ROW: &[&str] = &[
    // Newer than 4.17.
    "VCPUOP_register_runstate_phys_area",
    "VCPUOP_register_vcpu_time_phys_area",
    "XENFEAT_runstate_phys_area",
    "XENFEAT_vcpu_time_phys_area",
    // tmem's control, removed in 2019.
    "XEN_SYSCTL_tmem_op",
    "XEN_SYSCTL_TMEM_OP_",
    "struct xen_sysctl_tmem_op",
    "struct tmem_handle",
    "struct xen_tmem_client",
    "struct xen_tmem_pool_info",
];

/// What a source file claims: items whose documentation begins with a C name, and the fields of claimed structures.
#[derive(Default)]
struct Claims {
    /// C names.
    items: Vec<String>,
    /// `Type.field`.
    fields: Vec<String>,
}

/// The C name with which a documentation line begins, if it does.
fn c_name(doc: &str) -> Option<&str> {
    let (name, _) = doc.strip_prefix('`')?.split_once('`')?;
    let word = name.strip_prefix("struct ").unwrap_or(name);
    let is_word = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_word && (word.contains('_') || word != name)).then_some(name)
}

/// Reads the claims of one source file.
fn claims_of(source: &str) -> Claims {
    let mut claims = Claims::default();
    let mut doc: Option<&str> = None;
    let mut structure: Option<&str> = None;
    for line in source.lines().take_while(|line| *line != "#[cfg(test)]") {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("/// ") {
            doc.get_or_insert(text);
            continue;
        }
        let claim = doc.and_then(c_name);
        let item = line.strip_prefix("pub ").unwrap_or(line);
        if let Some(name) = item.strip_prefix("struct ") {
            claims.items.extend(claim.map(String::from));
            structure = claim.filter(|claim| claim.starts_with("struct ")).and(name.split(' ').next());
            doc = None;
        } else if item.starts_with("const ") || item.starts_with("type ") {
            claims.items.extend(claim.map(String::from));
            doc = None;
        } else if let (Some(name), Some((field, _))) =
            (structure, line.strip_prefix("pub ").and_then(|it| it.split_once(": ")))
        {
            if !field.starts_with("pad") && !field.starts_with('_') {
                claims.fields.push(format!("{name}.{field}"));
            }
            doc = None;
        } else if line == "}" || line.is_empty() {
            structure = None;
            doc = None;
        }
    }
    claims
}

/// All source files below `directory`.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_item_that_names_xens_has_a_row() {
    let mut rows = constants::current();
    rows.extend(constants::legacy());
    rows.extend(structures::long());
    rows.extend(structures::compat());
    rows.extend(expressions());
    let words: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.c.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect();
    let fields: BTreeSet<&str> = rows.iter().map(|row| row.rust.rsplit("::").next().unwrap_or(&row.rust)).collect();
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (mut items, mut missing) = (0, Vec::new());
    for file in files {
        let source = fs::read_to_string(&file).expect("the sources are text");
        let claims = claims_of(&source);
        items += claims.items.len();
        for item in claims.items {
            let word = item.strip_prefix("struct ").unwrap_or(&item);
            let excepted = WITHOUT_ROW.iter().any(|it| item.starts_with(it));
            if !excepted && !words.contains(word) {
                missing.push(item);
            }
        }
        let excepted = |field: &str| file.ends_with("sysctl.rs") && field.starts_with("Tmem");
        missing.extend(claims.fields.into_iter().filter(|it| !excepted(it) && !fields.contains(it.as_str())));
    }
    assert!(items > 500, "the scan has found only {items} items");
    assert!(missing.is_empty(), "no row for {missing:#?}");
}
