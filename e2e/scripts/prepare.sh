#!/bin/bash
# Installs the Debian packages whose programs are missing, and only those; says which. Everything else the tests need is
# unpacked below target/e2e without being installed.
#
# usage: prepare.sh PROGRAM...
set -euo pipefail

declare -A package=(
	[cc]="gcc libc6-dev" [ip]=iproute2 [nsenter]=util-linux [unshare]=util-linux [mount]=mount [tar]=tar
	[find]=findutils [git]=git [mkfs.erofs]=erofs-utils [make]=make
)
missing=()
for program in "$@"; do
	if ! PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null; then
		missing+=(${package[$program]:-$program})
	fi
done
if ! command -v cargo >/dev/null; then
	echo "Rust is missing: install it from your distribution or with rustup (the toolchain is pinned in rust-toolchain.toml)" >&2
	exit 1
fi
if [ ${#missing[@]} = 0 ]; then
	exit 0
fi
sudo=
if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
echo "==> installing Debian packages that are missing: ${missing[*]}"
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
