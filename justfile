# Shorthands; `tests/run` is what counts.

# List the recipes.
default:
    @just --list

# Everything that must pass before a change lands.
test:
    tests/run

# The whole agent in a simulated world, as often as one likes; `just simulate 1 4711` repeats a seed.
simulate schedules="20000" first="0":
    RUSTFLAGS="--cfg tokio_unstable" cargo run --locked --profile simulation -p simulation -- {{schedules}} {{first}}

# The released command on real sockets in bad times, for so many hours; docs/testing.md.
soak hours="1" first="0": build
    ADIT_SOAK_BINARY=target/release/adit ADIT_SOAK_HOURS={{hours}} ADIT_SOAK_SEEDS={{first}} \
        cargo test --locked --test soak -- --nocapture keeps_its_promises

# The unit tests and a choice of those from end to end, on each ARM architecture as qemu has it.
arm:
    tests/deploy/emulated arm64
    tests/deploy/emulated armhf

# A tunnel through each image of a release, those for ARM emulated.
images folder="dist":
    ADIT_TEST_IMAGES="{{absolute_path(folder)}}" cargo test --locked --test deploy -- in_the_image_of_each

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
    #!/usr/bin/env bash
    set -euo pipefail
    while read -r input; do
        base64 -d <<<"$input" >"fuzz/corpus/{{target}}/$(sha1sum <<<"$input" | cut -c-40)"
    done <fuzz/found/{{target}}
    cargo +nightly fuzz run -s none {{target}} fuzz/corpus/{{target}} -- \
        -max_total_time={{seconds}} -max_len=8192 -dict=fuzz/dictionaries/{{target}}

# Keeps what was found of a target, as few inputs as reach all that was reached.
fuzz-keep target:
    #!/usr/bin/env bash
    set -euo pipefail
    least=$(mktemp -d)
    cargo +nightly fuzz run -s none {{target}} "$least" fuzz/corpus/{{target}} -- \
        -set_cover_merge=1 -use_counters=0 -max_len=1024
    for input in "$least"/*; do base64 -w0 "$input"; echo; done | grep . >fuzz/found/{{target}}

# The tests of what decides and of what reads bytes, in an interpreter that sees undefined behaviour.
miri:
    PROPTEST_CASES=8 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p smartrest -p websocket-frames -- --skip very_large
    PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p adit --lib -- \
        tunnel::policy net::head mqtt::framing \
        platform::downlink platform::dialogue platform::ids platform::uplink

# Breaks the code on purpose, a place at a time, and runs the tests beside it: docs/testing.md.
mutants module="":
    #!/usr/bin/env bash
    set -euo pipefail
    export CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_MAX_SHRINK_ITERS=0
    status=0
    while read -r name package files tests; do
        [[ -z "{{module}}" || "{{module}}" == "$name" ]] || continue
        # shellcheck disable=SC2086 # the names of several tests
        cargo mutants --package "$package" --file "$files" --output "target/mutants/$name" \
            --cargo-arg=--locked --cargo-arg=--lib -- -- $tests </dev/null || status=$?
    done <<'MODULES'
    rows smartrest smartrest/src/**/*.rs
    ids adit src/platform/ids/*.rs platform::
    operations adit src/platform/operations/*.rs platform::
    outbox adit src/mqtt/outbox.rs mqtt::outbox
    conversation adit src/mqtt/conversation/mod.rs mqtt::conversation
    policy adit src/tunnel/policy/*.rs tunnel::policy tunnel::evasion
    frame websocket-frames websocket-frames/src/*.rs
    head adit src/net/head.rs net::head
    upgrade adit src/net/upgrade.rs net::upgrade tunnel::cloud
    token adit src/auth/token.rs auth::token
    relay adit src/tunnel/relay/*.rs tunnel::
    websocket adit src/net/websocket.rs net::websocket
    MODULES
    exit "$status"

# Licences, sources and advisories of everything that is linked.
deny:
    cargo deny check

# The binary of a release.
build:
    cargo build --release --locked
