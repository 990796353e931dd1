//! The documents: their links lead somewhere, and what they name is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document of ours, by its path from the root, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    let mut files: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|name| root().join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        found.push((file.strip_prefix(root()).unwrap().to_owned(), text));
    }
    assert!(found.len() > 30, "{}", found.len());
    found
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    let kept = kept.filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for (document, text) in documents() {
        let here = root().join(&document);
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            seen += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => here.clone(),
                path => here.parent().unwrap().join(path),
            };
            let has_heading = || {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| anchor(line) == heading)
            };
            if !file.exists() || (!heading.is_empty() && !has_heading()) {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert_eq!(broken, Vec::<String>::new());
}

/// What a document puts in backticks and what looks like a path of ours.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/_-.".contains(c);
        word.contains('/') && !word.starts_with('/') && word.chars().all(is_path)
    })
}

/// Documents that name files from `src` on as well.
const ABOUT_SRC: [&str; 2] = ["ARCHITECTURE.md", "docs/schema.md"];

#[test]
fn files_that_documents_name_are_there() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for (document, text) in documents() {
        let mut bases = vec![root().to_owned()];
        if ABOUT_SRC.iter().any(|name| document == Path::new(name)) {
            bases.push(root().join("src"));
        }
        // Blocks of code have backticks of their own.
        let prose: String = text.split("```").step_by(2).collect();
        for path in paths(&prose) {
            let first = path.split('/').next().unwrap();
            let is_ours = first != "target" && bases.iter().any(|base| base.join(first).is_dir());
            if !is_ours {
                continue;
            }
            seen += 1;
            if !bases.iter().any(|base| base.join(path).exists()) {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_overview_of_the_schema_has_every_table() {
    let overview = std::fs::read_to_string(root().join("docs/schema.md")).unwrap();
    let mut tables = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("supabase/migrations")).unwrap() {
        let file = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let made = file.split("CREATE TABLE IF NOT EXISTS ").skip(1);
        tables.extend(made.map(|rest| rest.split([' ', '(']).next().unwrap().to_owned()));
    }
    assert!(tables.len() > 35, "{tables:?}");
    tables.retain(|table| !overview.contains(&format!("`{table}`")));
    assert_eq!(tables, BTreeSet::new());
}
