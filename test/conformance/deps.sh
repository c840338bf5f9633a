#!/bin/sh
# Installs what the yardstick needs on a clean Debian 12 with Go and gcc: libseccomp's headers for runc, and
# the programs that upstream's nodes run.
set -eu
need=""
printf '#include <seccomp.h>\n' | gcc -E - >/dev/null 2>&1 || need="$need libseccomp-dev"
has() { command -v "$1" >/dev/null || need="$need $2"; }
has pkg-config pkg-config
has ip iproute2
has nsenter util-linux
has iptables iptables
has nft nftables
has conntrack conntrack
[ -z "$need" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: run as root once, or: apt-get install -y$need" >&2
	exit 1
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
