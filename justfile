# Short names for what is done often; `just` lists them.

_list:
    @just --list

# Set up, build, start the service, transcribe a sample
run:
    ./run

# Every check and every test
test:
    ./test

# One crate's tests: just try queue
try crate:
    cargo nextest run --package verbatim-{{crate}}

# What takes more than a minute, gigabytes or a second build: just soak, or just soak chaos
soak *parts:
    scripts/soak {{parts}}

# Break a cluster on purpose for some minutes, and check that nothing was lost
chaos *arguments='--profile long':
    cargo run --quiet --package verbatim-chaos -- {{arguments}}

# Format everything
fmt:
    cargo fmt --all

# Clippy, walls and shell scripts, warnings as errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    scripts/walls
    git grep -lIE '^#!/(usr/bin/env bash|bin/sh)$' | xargs shellcheck --external-sources scripts/common

# Our pages of rustdoc
doc:
    cargo doc --no-deps --workspace --open

# Write openapi.json from the code
openapi:
    cargo run --quiet --package verbatim -- openapi > openapi.json
