# Shorthands; `tests/run` is what counts.

# List the recipes.
default:
    @just --list

# Everything that must pass before a change lands.
test:
    tests/run

# A tunnel from end to end on this machine, with nothing else installed.
demo *arguments:
    cargo run --release --locked --example demo -- {{arguments}}

# What a tunnel costs, as ratios to a plain TCP proxy in the same run.
bench:
    cargo bench --locked --bench relay

# What a tunnel costs from outside, beside a floor relay; a whole run writes docs/performance.md.
wire *arguments:
    cargo bench --locked --bench wire -- {{arguments}}

# Random bytes against the reader of rows, for a minute.
fuzz seconds="60":
    cargo +nightly fuzz run rows -- -max_total_time={{seconds}}

# Licences, sources and advisories of everything that is linked.
deny:
    cargo deny check

# The binary of a release.
build:
    cargo build --release --locked
