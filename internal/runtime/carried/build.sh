#!/bin/sh
# Builds what skiff carries inside its binary into bin/: containerd, its shim and runc from their Go
# modules, pause, init, seccomp and the launchers of the shim and the CNI plugin from C, and that plugin. Quick when nothing changed: the key is made of
# the modules' versions, the toolchain and the sources here. Needs go, gcc and libseccomp's headers.
set -eu
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)

key=$({
	go version
	gcc --version | head -n 1
	grep -E 'opencontainers/|containerd/|containernetworking/|libseccomp|cilium/ebpf|golang.org/x/sys|google.golang.org/' "$root/go.mod"
	cat build.sh pause/*.c pause/*.h launcher/*.c launcher/*.h init/*.c seccomp/*.c containerd/*.go shim/*.go shim/oci/*.go pack/*.go
	cat "$root"/cmd/skiff-cni/*.go "$root"/internal/cni/*.go "$root"/internal/nftables/*.go "$root"/internal/resident/*.go
} | sha256sum | cut -d ' ' -f 1)
if [ "$(cat bin/key 2>/dev/null)" = "$key" ]; then
	exit 0
fi

if ! printf '#include <seccomp.h>\n' | gcc -E - >/dev/null 2>&1; then
	echo "build.sh: runc needs libseccomp's headers: apt-get install -y libseccomp-dev" >&2
	exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$root"

echo "building the carried containerd, runc, shim and pause (only when their versions change)" >&2
CGO_ENABLED=1 go build -trimpath -tags 'seccomp urfave_cli_no_docs netgo osusergo' \
	-ldflags '-s -w -linkmode external -extldflags -static' \
	-o "$tmp/runc" github.com/opencontainers/runc
CGO_ENABLED=0 go build -trimpath -tags 'netgo osusergo' -ldflags '-s -w' \
	-o "$tmp/containerd-shim-skiff" ./internal/runtime/carried/shim
CGO_ENABLED=0 go build -trimpath -tags 'netgo osusergo' -ldflags '-s -w' \
	-o "$tmp/containerd" ./internal/runtime/carried/containerd
CGO_ENABLED=0 go build -trimpath -tags 'netgo osusergo' -ldflags '-s -w' \
	-o "$tmp/skiff-cni-plugin" ./cmd/skiff-cni
small() {
	gcc -static -nostdlib -nostartfiles -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables \
		-Os -s -Wall -Wextra -Werror -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -o "$1" "$2"
}
small "$tmp/pause" internal/runtime/carried/pause/pause.c
small "$tmp/containerd-shim-runc-v2" internal/runtime/carried/launcher/launcher.c
small "$tmp/skiff-cni" internal/runtime/carried/launcher/cni.c
small "$tmp/skiff-init" internal/runtime/carried/init/init.c
gcc -static -Os -s -Wall -Wextra -Werror -o "$tmp/skiff-seccomp" internal/runtime/carried/seccomp/seccomp.c -lseccomp

# The key goes last: an interrupted run leaves none, and the next one starts over.
out=internal/runtime/carried/bin
rm -f "$out/key"
go run ./internal/runtime/carried/pack "$out" "$tmp/containerd" "$tmp/runc" "$tmp/containerd-shim-runc-v2" "$tmp/containerd-shim-skiff" "$tmp/pause" "$tmp/skiff-cni" "$tmp/skiff-cni-plugin" \
	"$tmp/skiff-init" "$tmp/skiff-seccomp"
printf '%s' "$key" >"$out/key"
