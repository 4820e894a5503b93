//! Feeds every fuzz target what is kept for it in `fuzz/corpus`.

use std::fs;
use std::path::Path;

#[test]
fn holds_for_every_input_that_is_kept() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in adit::fuzzing::TARGETS {
        let folder = fs::read_dir(corpus.join(name)).expect("a folder for each target");
        let mut count = 0;
        for file in folder {
            let path = file.expect("an entry").path();
            let bytes = fs::read(&path).expect("a file");
            // What a panic says comes behind it.
            println!("{}", path.display());
            target(&bytes);
            count += 1;
        }
        assert!(count > 0, "nothing is kept for {name}");
    }
}
