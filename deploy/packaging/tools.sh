# The tools of a release, each of a fixed version, in a folder of their own; sourced by deploy/release.

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
NEEDS=(rpmbuild:rpm rpm2cpio:rpm cpio:cpio qemu-aarch64:qemu-user qemu-aarch64-static:qemu-user-static
  buildah:buildah mmdebstrap:mmdebstrap readelf:binutils lintian:lintian faketime:faketime git:git cc:gcc jq:jq)

prepare_tools() {
  local need missing=()
  for need in "${NEEDS[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
  done
  # The interpreter is there without the package that makes environments of it.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    install_packages "${missing[@]}"
  fi
  mkdir -p "$TOOLS"
  step "tools: compiler" compiler
  step "tools: linker" linker
  step "tools: cargo auditable, cargo cyclonedx" cargo_tools
  step "tools: glibc to run with" glibc
}

# Unpacked beside the system, nothing of it installed.
compiler() {
  [[ -x $TOOLS/compiler/usr/bin/rustc ]] && return
  local packages=$TOOLS/packages
  rm -rf "$packages" "$TOOLS/compiler.part"
  mkdir -p "$packages"
  # Where nothing had to be installed, the lists may be old. Root itself fetches: the folder is its own.
  patiently apt-get update -q || return
  (cd "$packages" && patiently apt-get download -q -o APT::Sandbox::User=root "${COMPILER[@]}") || return
  local package
  for package in "$packages"/*.deb; do dpkg -x "$package" "$TOOLS/compiler.part" || return; done
  rm -rf "$packages"
  mv "$TOOLS/compiler.part" "$TOOLS/compiler"
}

linker() {
  [[ -x $TOOLS/zig/bin/cargo-zigbuild ]] && return
  python3 -m venv "$TOOLS/zig" && "$TOOLS/zig/bin/pip" install --quiet "${ZIG[@]}"
}

# They work for a second: what counts is how fast they are compiled, with what both are made of once.
cargo_tools() {
  local root=$TOOLS/cargo
  local -x CARGO_TARGET_DIR=$TOOLS/cargo-build
  [[ -x $root/bin/cargo-auditable ]] ||
    with_compiler cargo install --quiet --debug --locked --root "$root" "cargo-auditable@$AUDITABLE" || return
  [[ -x $root/bin/cargo-cyclonedx ]] ||
    with_compiler cargo install --quiet --debug --locked --root "$root" "cargo-cyclonedx@$CYCLONEDX" || return
  rm -rf "$CARGO_TARGET_DIR"
}

# An absolute link would lead to the libraries of this machine: the loader of another release than theirs.
keep_links_within() {
  local link
  find "$1" -type l -lname '/*' | while read -r link; do
    ln -sfn --relative "$1$(readlink "$link")" "$link" || return
  done
}

# What a dynamic binary finds on a machine of a release of Debian, for the emulator: nothing but the libraries.
glibc() {
  local release architecture root
  mkdir -p "$TOOLS/glibc"
  for release in "$OLDEST_GLIBC" "$WITH_LONG_TIMES"; do
    for architecture in amd64 arm64 armhf; do
      root=$(libraries "$release" "$architecture")
      [[ -d $root ]] && continue
      rm -rf "$root.lib"
      # Updates of an old release move to an archive; glibc itself has not changed since.
      patiently new_debian "$root.part" "$release" "deb http://deb.debian.org/debian $release main" \
        --variant=extract --include=libc6,libgcc-s1 "--architectures=$architecture" || return
      mkdir -p "$root.lib"
      mv "$root.part"/lib* "$root.lib/" && mkdir -p "$root.lib/usr" && mv "$root.part"/usr/lib "$root.lib/usr/" || return
      rm -rf "$root.part"
      keep_links_within "$root.lib" || return
      mv "$root.lib" "$root"
    done
  done
}
