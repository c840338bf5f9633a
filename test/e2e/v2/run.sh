#!/bin/sh
# Runs end-to-end tests in a virtual machine whose cgroups are of version 2, whatever this machine has: Debian's
# kernel for clouds, a root file system made of what the tests need, no network but the loopback. Everything is kept
# and made anew in a directory of its own; the machine's only file is a disk that goes when it does.
#
#   run.sh [-run REGEXP] [-v]     from the checkout, after make build
#
#   SKIFF_V2_CACHE   where the kernel is kept (default ~/.cache/skiff-v2)
#   SKIFF_V2_LIMIT   seconds until the machine is ended (default 3600)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${SKIFF_V2_CACHE:-$HOME/.cache/skiff-v2}
tests=${1:+$*}
tests=${tests:--run=TestCgroups|TestPods|TestShortCrash}

say() { echo "e2e-v2: $*" >&2; }

# What this needs of Debian, and the kernel's package, which is unpacked and not installed.
packages=""
for need in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static mke2fs:e2fsprogs depmod:kmod ip:iproute2; do
	PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || packages="$packages ${need##*:}"
done
if [ -n "$packages" ]; then
	[ "$(id -u)" = 0 ] || { say "SKIPPED: as root once, apt-get install -y --no-install-recommends$packages"; exit 0; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache"
if ! ls "$cache"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
	say "fetching Debian's kernel"
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
	(cd "$cache" && apt-get download -qq "$package" && dpkg -x linux-image-*.deb kernel.new && rm linux-image-*.deb)
	mv "$cache/kernel.new" "$cache/kernel"
	version=$(basename "$cache"/kernel/lib/modules/*)
	depmod -b "$cache/kernel" "$version"
fi
version=$(basename "$cache"/kernel/lib/modules/*)

work=$(mktemp -d)
machine=""
trap 'rm -rf "$work"' EXIT
trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null; exit 130' INT TERM

# put copies a program, and the libraries that it is linked with, to the same place in the tree.
put() {
	file=$(readlink -f "$(command -v "$2")")
	mkdir -p "$1/$(dirname "$file")"
	cp -n "$file" "$1/$file"
	for lib in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
		mkdir -p "$1/$(dirname "$lib")"
		cp -nL "$lib" "$1/$lib"
	done
	[ "$file" = "/usr/bin/$2" ] || ln -sf "$file" "$1/usr/bin/$2"
}

say "making the machine's disk"
disk=$work/root
mkdir -p "$disk/bin" "$disk/sbin" "$disk/usr/bin" "$disk/lib64" "$disk/lib/modules" "$disk/etc" "$disk/proc" "$disk/sys" \
	"$disk/dev" "$disk/run" "$disk/tmp" "$disk/var/lib" "$disk/var/log" "$disk/root" "$disk/tests" "$disk/programs"
cp "$(command -v busybox)" "$disk/bin/busybox"
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$disk/bin/$applet"; done
for program in ip unshare nsenter; do put "$disk" "$program"; done
cp -a "$cache/kernel/lib/modules/$version" "$disk/lib/modules/"
ln -s ../bin/modprobe "$disk/sbin/modprobe" # where the kernel looks for it
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$disk/etc/passwd"
printf 'root:x:0:\n' >"$disk/etc/group"
printf '127.0.0.1 localhost\n' >"$disk/etc/hosts"
printf 'nameserver 127.0.0.1\n' >"$disk/etc/resolv.conf"
printf 'v2\n' >"$disk/etc/hostname"
cp "$here/init" "$disk/init"
printf '%s\n' "$tests" >"$disk/tests/arguments"
cp "$root/bin/skiff" "$disk/bin/skiff"
cd "$root"
export CGO_ENABLED=0 # compiled as bin/skiff is
go build -trimpath -ldflags '-s -w' -o "$disk/programs/webapp" ./test/e2e/webapp
go test -c -trimpath -tags e2e -ldflags '-s -w' -o "$disk/tests/e2e" ./test/e2e
go build -trimpath -ldflags '-s -w' -o "$disk/programs/probe" ./internal/runtime/testdata/probe
go test -c -trimpath -ldflags '-s -w' -o "$disk/tests/cgroup" ./internal/cgroup
go test -c -trimpath -ldflags '-s -w' -o "$disk/tests/runtime" ./internal/runtime
go test -c -trimpath -ldflags '-s -w' -o "$disk/tests/robustness" ./test/robustness
mke2fs -q -t ext4 -E root_owner=0:0 -d "$disk" "$work/disk" 4G

# The kernel's modules for a disk are not in the kernel: a first file system loads them.
first=$work/first
mkdir -p "$first/bin" "$first/mnt" "$first/proc" "$first/dev" "$first/sys"
cp "$(command -v busybox)" "$first/bin/busybox"
modules=$cache/kernel/lib/modules/$version
for module in $(modprobe -S "$version" -d "$cache/kernel" --show-depends virtio_pci | cut -d' ' -f2) \
	$(modprobe -S "$version" -d "$cache/kernel" --show-depends virtio_blk | cut -d' ' -f2) \
	$(modprobe -S "$version" -d "$cache/kernel" --show-depends virtio_rng | cut -d' ' -f2); do
	name=$(basename "$module")
	grep -qsx "$name" "$first/modules" && continue
	echo "$name" >>"$first/modules"
	cp "$module" "$first/$name"
done
cat >"$first/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r name; do /bin/busybox insmod "/$name"; done </modules
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /mnt && /bin/busybox mount --move /dev /mnt/dev
exec /bin/busybox switch_root /mnt /init
INIT
chmod +x "$first/init"
(cd "$first" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"

# With KVM the machine is as fast as this one; without, it is computed, some twenty times slower.
why=""
if [ ! -c /dev/kvm ]; then
	why="there is no device /dev/kvm"
elif ! (exec 3<>/dev/kvm) 2>/dev/null; then
	why="/dev/kvm cannot be opened"
fi
accel="-accel kvm -cpu host -smp 2" slow=2
if [ -n "$why" ]; then
	say "NO KVM: $why. The machine is emulated, which takes some twenty times as long"
	# One CPU: of two that are emulated on a busy machine the one waits for the other, which does not get to run.
	accel="-accel tcg -cpu max -smp 1" slow=20
fi
say "starting the machine: Linux $version, tests $tests"
log=$work/console
# shellcheck disable=SC2086 # accel is words
timeout "${SKIFF_V2_LIMIT:-3600}" qemu-system-x86_64 $accel -m 3072 -nodefaults -no-user-config -display none -no-reboot \
	-nic none -device virtio-rng-pci -drive "file=$work/disk,if=virtio,format=raw,cache=unsafe" \
	-kernel "$cache/kernel/boot/vmlinuz-$version" -initrd "$work/initrd" -serial stdio -monitor none \
	-append "console=ttyS0 quiet panic=-1 mitigations=off cgroup_no_v1=all no_timer_check tsc=reliable skiff.slow=$slow" </dev/null >"$log" 2>&1 &
machine=$!
tail -n +1 -f --pid="$machine" "$log" &
wait "$machine" || say "the machine ended with $?"
wait
machine=""
grep -q '^e2e-v2: all passed' "$log" || { say "FAILED"; exit 1; }
