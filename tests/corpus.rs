//! Feeds every fuzz target what is kept for it: in `fuzz/corpus` what people have thought of, in
//! `fuzz/found` what the fuzzer has, an input a line in base64.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[test]
fn holds_for_every_input_that_is_kept() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in adit::fuzzing::TARGETS {
        let folder =
            fs::read_dir(kept.join("corpus").join(name)).expect("a folder for each target");
        let mut inputs: Vec<_> = folder
            .map(|file| {
                let path = file.expect("an entry").path();
                let bytes = fs::read(&path).expect("a file");
                (path.display().to_string(), bytes)
            })
            .collect();
        let found = kept.join("found").join(name);
        let lines = fs::read_to_string(&found).expect("a file for each target");
        inputs.extend(lines.lines().zip(1..).map(|(line, number)| {
            let bytes = STANDARD.decode(line).expect("base64");
            (format!("{}, line {number}", found.display()), bytes)
        }));
        assert!(inputs.len() > 10, "little is kept for {name}");
        for (place, bytes) in inputs {
            // What a panic says comes behind it.
            println!("{place}");
            target(&bytes);
        }
    }
}
