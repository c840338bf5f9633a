#!/bin/sh
# Installs what the build needs on a clean Debian 12 with Go and gcc: libseccomp's headers for runc.
set -eu
need=""
printf '#include <seccomp.h>\n' | gcc -E - >/dev/null 2>&1 || need="$need libseccomp-dev"
command -v pkg-config >/dev/null || need="$need pkg-config"
[ -z "$need" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: run as root once, or: apt-get install -y$need" >&2
	exit 1
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $need >/dev/null
