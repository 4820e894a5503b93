"""Which crates are linked into adit."""

import subprocess

ARCHITECTURES = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "armv7-unknown-linux-gnueabihf",
]


def cargo(*arguments):
    return subprocess.run(
        ["cargo", *arguments, "--locked"], check=True, capture_output=True, text=True
    ).stdout


def linked():
    """Names and versions, over all architectures."""
    crates = set()
    for architecture in ARCHITECTURES:
        tree = cargo("tree", "--package", "adit", "--edges", "normal", "--prefix", "none",
                     "--target", architecture, "--format", "{p}")
        for line in tree.splitlines():
            name, version = line.split()[:2]
            crates.add((name, version.removeprefix("v")))
    return crates
