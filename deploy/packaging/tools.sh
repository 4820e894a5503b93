# The tools of a release, each of a fixed version, in a folder of their own; sourced by deploy/release.

TOOLS=${ADIT_RELEASE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/adit-release}
export TOOLS

# Debian's own compiler: with it comes the source of the standard library, which is built again for
# each target. rustup's servers are not among the registries.
COMPILER=(rustc-web cargo-web libstd-rust-web-1.96 libstd-rust-web-dev rust-web-src libllvm22
  libgit2-1.5 libhttp-parser2.9 libmbedcrypto7 libmbedx509-1 libmbedtls14 libssh2-1 libedit2 libz3-4
  libbsd0 libmd0)
# Linker and C compiler for every target and for an older glibc.
ZIG=(ziglang==0.17.1 cargo-zigbuild==0.24.1)
AUDITABLE=0.7.2
CYCLONEDX=0.5.7

# A command of the release, and the Debian package it comes in.
NEEDS=(rpmbuild:rpm qemu-aarch64-static:qemu-user-static buildah:buildah python3:python3-venv
  readelf:binutils lintian:lintian)

prepare_tools() {
  local need missing=() sudo=()
  for need in "${NEEDS[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
  done
  if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    ((EUID)) && sudo=(sudo)
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
  fi
  mkdir -p "$TOOLS"
  step "tools: compiler" compiler
  step "tools: linker" linker
  step "tools: cargo auditable, cargo cyclonedx" cargo_tools
}

# Unpacked beside the system, nothing of it installed.
compiler() {
  [[ -x $TOOLS/compiler/usr/bin/rustc ]] && return
  local packages=$TOOLS/packages
  rm -rf "$packages" "$TOOLS/compiler.part"
  mkdir -p "$packages"
  (cd "$packages" && apt-get download -q "${COMPILER[@]}") || return
  local package
  for package in "$packages"/*.deb; do dpkg -x "$package" "$TOOLS/compiler.part" || return; done
  rm -rf "$packages"
  mv "$TOOLS/compiler.part" "$TOOLS/compiler"
}

linker() {
  [[ -x $TOOLS/zig/bin/cargo-zigbuild ]] && return
  rm -rf "$TOOLS/zig.part"
  python3 -m venv "$TOOLS/zig" && "$TOOLS/zig/bin/pip" install --quiet "${ZIG[@]}"
}

cargo_tools() {
  local root=$TOOLS/cargo
  [[ -x $root/bin/cargo-auditable ]] ||
    cargo install --quiet --locked --root "$root" "cargo-auditable@$AUDITABLE" || return
  [[ -x $root/bin/cargo-cyclonedx ]] ||
    cargo install --quiet --locked --root "$root" "cargo-cyclonedx@$CYCLONEDX"
}
