SUMMARY = "Remote access agent for gateways that speak MQTT to Cumulocity"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=fa818a259cbed7ce8bc2a22d35a464fc"

# crate:// lines for Cargo.lock: `bitbake -c update_crates adit` writes adit-crates.inc.
inherit cargo cargo-update-recipe-crates systemd useradd

SRC_URI = "git://git.example.com/adit.git;protocol=https;branch=main"
SRCREV = "${AUTOREV}"
S = "${WORKDIR}/git"
require ${BPN}-crates.inc

# A compiler of 1.95 or later: meta-rust-bin, or the rust of wrynose and later.
CARGO_BUILD_FLAGS += "--package adit --bin adit"
RDEPENDS:${PN} = "ca-certificates"

SYSTEMD_SERVICE:${PN} = "adit.service"
USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --user-group --no-create-home --home-dir /var/lib/adit --shell /sbin/nologin adit"

do_install:append() {
    install -D -m 0644 ${S}/deploy/systemd/adit.service ${D}${systemd_system_unitdir}/adit.service
    install -D -m 0640 ${S}/deploy/adit.toml ${D}${sysconfdir}/adit/adit.toml
    chgrp adit ${D}${sysconfdir}/adit/adit.toml
    # Under a 64-bit kernel "native" would keep a 32-bit program from starting.
    if [ "${SITEINFO_BITS}" = 32 ]; then
        sed -i '/^SystemCallArchitectures=/d' ${D}${systemd_system_unitdir}/adit.service
    fi
}

CONFFILES:${PN} = "${sysconfdir}/adit/adit.toml"
FILES:${PN} += "${systemd_system_unitdir}"
