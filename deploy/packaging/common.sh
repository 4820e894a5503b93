# What the parts of a release share; sourced, from the root of the checkout.

# Where everything is built and put together.
STAGE=${STAGE:-$PWD/target/release-stage}
# Tools that are unpacked, and stay.
TOOLS=${ADIT_RELEASE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/adit-release}
export STAGE TOOLS

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# Takes a title and a command, and ends the release if that fails: half a release is none.
step() {
  local title=$1 begin=$SECONDS
  shift
  say "$title"
  "$@" || { echo "deploy/release: $title: failed" >&2; exit 1; }
  echo "($((SECONDS - begin)) s)"
}

# Version, commit and date of the checkout. Whatever carries a time carries that of the commit, so
# that two runs make the same bytes.
describe_source() {
  VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
  ADIT_COMMIT=$(git rev-parse HEAD)
  [[ -z $(git status --porcelain --untracked-files=no) ]] || ADIT_COMMIT+=-dirty
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
  ADIT_DATE=$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)
  export VERSION ADIT_COMMIT ADIT_DATE SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
}

# Runs a command with the compiler and the tools of the release before all others.
with_compiler() {
  PATH="$TOOLS/zig/bin:$TOOLS/cargo/bin:$TOOLS/compiler/usr/bin:$PATH" RUSTC="$TOOLS/compiler/usr/bin/rustc" \
    LD_LIBRARY_PATH="$TOOLS/compiler/usr/lib/x86_64-linux-gnu" "$@"
}

# The target of an architecture (amd64, arm64, armhf) and a C library (musl, gnu), as rustc names it.
target() {
  case $1-$2 in
    amd64-*) echo "x86_64-unknown-linux-$2" ;;
    arm64-*) echo "aarch64-unknown-linux-$2" ;;
    armhf-*) echo "armv7-unknown-linux-${2}eabihf" ;;
  esac
}

# Where the binary of an architecture and a C library stands once it is built. A test of the packages
# names one that it has.
binary() { echo "${ADIT_RELEASE_BINARY:-$STAGE/build/$(target "$1" "$2")/release/adit}"; }

# Packs a folder, or only what is named of it, into a .tar on standard output, the same bytes whenever and by whoever.
packed() {
  local folder=$1
  shift
  (($#)) || set -- .
  tar --create --directory "$folder" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
    --mtime="@$SOURCE_DATE_EPOCH" "$@"
}

# Of Debian 11, the oldest glibc that `gnu` is made for (2.31), and Debian 12 (2.36), whose times have 64
# bits on 32-bit machines too.
OLDEST_GLIBC=bullseye
WITH_LONG_TIMES=bookworm

# Where the glibc of a release of Debian stands, for an architecture.
libraries() { echo "$TOOLS/glibc/$1-$2"; }

# The program that runs those of an architecture; with -static behind it, one that needs no libraries.
emulator() {
  case $1 in
    amd64) echo qemu-x86_64 ;;
    arm64) echo qemu-aarch64 ;;
    armhf) echo qemu-arm ;;
  esac
}

# Runs a program of an architecture, on the oldest glibc if it is dynamic.
emulated() { "$(emulator "$1")" -L "$(libraries "$OLDEST_GLIBC" "$1")" "${@:2}"; }

# Runs a program of an architecture, emulated only where this machine cannot.
run_as() {
  if [[ $1 == "$(dpkg --print-architecture)" ]]; then "${@:2}"; else emulated "$@"; fi
}
