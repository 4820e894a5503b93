# What the parts of a release share; sourced, from the root of the checkout.

# Where everything is built and put together.
STAGE=${STAGE:-$PWD/target/release-stage}
export STAGE

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

# Packs a folder into a .tar.gz on standard output, the same bytes whenever and by whoever.
packed() {
  tar --create --directory "$1" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
    --mtime="@$SOURCE_DATE_EPOCH" "${@:2}" . | gzip -9n
}

# The program that runs those of an architecture where this machine cannot.
emulator() {
  case $1 in
    amd64) echo qemu-x86_64-static ;;
    arm64) echo qemu-aarch64-static ;;
    armhf) echo qemu-arm-static ;;
  esac
}

# Runs a program of an architecture, emulated where need be.
run_as() {
  if [[ $1 == "$(dpkg --print-architecture)" ]]; then
    "${@:2}"
  else
    "$(emulator "$1")" "${@:2}"
  fi
}
