#!/bin/sh
# Installs adit from this archive, or removes it: ./install.sh [--prefix DIR] [--remove [--purge]]
#
# The configuration in /etc/adit and /etc/default/adit and what adit keeps in /var/lib/adit stay, at an upgrade and
# at a removal; --purge takes them as well. --prefix installs below another root, as when an image of a gateway is made.
# The first installation enables adit; an upgrade leaves it enabled or not, running or not, as it is.
set -eu
# adit runs as a user of its own, who has to get at the program and its configuration.
umask 022
here=$(cd "$(dirname "$0")" && pwd)
root='' action=install purge=no
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) root=${2:?--prefix takes a folder}; shift ;;
    --remove) action=remove ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

if [ "$action" = remove ]; then
  if systemd; then systemctl disable --now adit.service 2>/dev/null || true; fi
  (cd "$here/usr" && find . ! -type d) | while read -r file; do rm -f "$root/usr/$file"; done
  rm -rf "$root/usr/share/doc/adit"
  if [ "$purge" = yes ]; then
    rm -rf "$root/etc/adit" "$root/etc/default/adit" "$root/var/lib/adit"
    changes=$root/etc/systemd/system/adit.service.d
    if [ -d "$changes" ]; then echo "$changes is left, where a password may stand"; fi
    [ -n "$root" ] || userdel adit 2>/dev/null || deluser adit 2>/dev/null || true
  fi
  if systemd; then systemctl daemon-reload || true; fi
  echo "adit is removed"
  exit
fi

first=yes
[ ! -e "$root/usr/bin/adit" ] || first=no
(cd "$here/usr" && find . ! -type d) | while read -r file; do
  mkdir -p "$root/usr/$(dirname "$file")"
  # A running program cannot be written to, but replaced.
  cp "$here/usr/$file" "$root/usr/$file.new"
  # Whoever has unpacked the archive may have kept it from others.
  chmod u=rwX,go=rX "$root/usr/$file.new"
  mv -f "$root/usr/$file.new" "$root/usr/$file"
done
if [ -z "$root" ] && ! id adit >/dev/null 2>&1; then
  if command -v useradd >/dev/null; then
    useradd --system --user-group --no-create-home --home-dir /var/lib/adit --shell /usr/sbin/nologin adit
  else
    # BusyBox makes no group with the user.
    addgroup -S adit
    adduser -S -D -H -h /var/lib/adit -s /sbin/nologin -G adit adit
  fi
fi
mkdir -p "$root/etc/adit"
[ -e "$root/etc/adit/adit.toml" ] || install -m 0640 "$here/etc/adit/adit.toml" "$root/etc/adit/adit.toml"
if [ -z "$root" ]; then
  chgrp adit /etc/adit/adit.toml || echo "adit runs as the user adit, who cannot read /etc/adit/adit.toml"
fi
if systemd; then
  systemctl daemon-reload || true
  if [ "$first" = yes ] && ! systemctl enable --quiet adit.service; then
    # It is masked, say.
    echo "adit is not enabled: systemctl status adit"
  elif systemctl is-active --quiet adit.service; then
    echo "adit goes on with the old program until: adit upgrade"
  elif [ "$first" = no ]; then
    echo "adit is left as it is: systemctl status adit"
  else
    echo "fill in /etc/adit/adit.toml, look with: adit check, then: systemctl start adit"
  fi
else
  # The unit's state directory is systemd's to make.
  if [ -z "$root" ]; then install -d -m 0700 -o adit -g adit /var/lib/adit; fi
  echo "fill in $root/etc/adit/adit.toml, look with: adit check, then start: adit run"
fi
