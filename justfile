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

# Random bytes against what reads them, as rows, session, heads: fuzz/README.md.
fuzz target="session" seconds="60":
    cargo +nightly fuzz run -s none {{target}} fuzz/corpus/{{target}} -- \
        -max_total_time={{seconds}} -max_len=8192 -dict=fuzz/dictionaries/{{target}}

# The tests of what decides and of what reads bytes, in an interpreter that sees undefined behaviour.
miri:
    PROPTEST_CASES=8 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p smartrest
    PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p adit --lib -- \
        tunnel::policy tunnel::relay::frame net::head net::certificate mqtt::framing \
        platform::downlink platform::dialogue platform::ids platform::uplink

# Licences, sources and advisories of everything that is linked.
deny:
    cargo deny check

# The binary of a release.
build:
    cargo build --release --locked
