//! The checks of `fuzz/`, without a fuzzer: seeds that are changed by chance.
//! `VCB_PROBES` says how many times each.

use std::path::Path;

use crate::support::dice::Dice;

#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// What parsers look at.
const WORDS: [&[u8]; 22] = [
    b"{v1}",
    b"v1=",
    b"t=",
    b"v0=",
    b",",
    b"\n",
    b"\0",
    b"\"",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"null",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"0.5",
    b"\xef\xbb\xbf",
    b"\xff",
    b"vck_",
    b";q=",
    b"*/*",
];

fn seeds(of: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(of);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// One to eight changes.
fn change(dice: &mut Dice, mut bytes: Vec<u8>, seeds: &[Vec<u8>]) -> Vec<u8> {
    for _ in 0..=dice.below(8) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below(bytes.len() - at + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.number().to_le_bytes()[0],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => drop(bytes.splice(at..end, dice.pick(&WORDS).iter().copied())),
            5 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => drop(bytes.splice(at..at, dice.pick(&WORDS).iter().copied())),
        }
        bytes.truncate(65_536);
    }
    bytes
}

#[test]
fn any_bytes_are_read_or_refused() {
    let asked = std::env::var("VCB_PROBES").ok();
    let times = asked.map_or(3_000, |count| {
        count.parse().expect("VCB_PROBES is a number")
    });
    for (name, check) in checks::CHECKS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name}");
        let mut dice = Dice::new(3);
        for seed in &seeds {
            check(seed);
        }
        for _ in 0..times {
            let seed = seeds[dice.below(seeds.len())].clone();
            let bytes = change(&mut dice, seed, &seeds);
            let checked = std::panic::catch_unwind(|| check(&bytes));
            assert!(
                checked.is_ok(),
                "{name}: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}
