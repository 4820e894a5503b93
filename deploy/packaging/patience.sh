# What asks an archive of packages is tried again, since one that is busy or half renewed answers soon; sourced.

# Runs a command, up to five times within two minutes until it succeeds. What it prints goes to standard error.
patiently() {
  local pause
  for pause in 5 15 30 60; do
    "$@" >&2 && return
    echo "trying again in $pause s: $*" >&2
    sleep "$pause"
  done
  "$@" >&2
}

# Installs packages on this Debian, as root.
install_packages() {
  patiently apt-get update -q || return
  DEBIAN_FRONTEND=noninteractive patiently apt-get install -q -y --no-install-recommends "$@"
}

# Makes a Debian in a folder, in the place of what is there: `new_debian FOLDER RELEASE`, and behind it more of what
# mmdebstrap takes.
new_debian() {
  rm -rf "$1"
  mmdebstrap --quiet "$2" "$1" "${@:3}"
}
