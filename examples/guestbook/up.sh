#!/bin/sh
# Starts a cluster in the background, builds the guestbook's images, deploys it,
# waits for it, and says where it is. Usage: up.sh DATA_DIR; $SKIFF is another binary
# than bin/skiff.
set -eu
data=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
skiff=${SKIFF:-$root/bin/skiff}
kubectl() { "$skiff" kubectl --kubeconfig "$data/kubeconfig" "$@"; }

if [ -f "$data/skiff.pid" ] && kill -0 "$(cat "$data/skiff.pid")" 2>/dev/null; then
	echo "a cluster runs in $data already; 'make down' ends it" >&2
else
	mkdir -p "$data" && chmod 700 "$data"
	# In a session of its own, so that it outlives this terminal.
	setsid "$skiff" server --data-dir "$data" >"$data/skiff.log" 2>&1 </dev/null &
	echo $! >"$data/skiff.pid"
fi
n=0
until [ -f "$data/kubeconfig" ] && kubectl get --raw /readyz >/dev/null 2>&1; do
	n=$((n + 1))
	kill -0 "$(cat "$data/skiff.pid")" 2>/dev/null || { cat "$data/skiff.log" >&2; exit 1; }
	[ $n -lt 300 ] || { tail "$data/skiff.log" >&2; exit 1; }
	sleep 0.1
done

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
(cd "$root" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$build/frontend" ./examples/guestbook/frontend)
"$skiff" image build --data-dir "$data" --name guestbook/frontend:v1 --binary "$build/frontend" --port 8080/tcp --import
sh "$here/redis.sh" "$build"
"$skiff" image build --data-dir "$data" --name guestbook/redis:v1 --binary "$build/redis-server" \
	--add-binary "$build/redis-cli" --port 6379/tcp --import

kubectl apply -f "$here/guestbook.yaml"
kubectl -n guestbook rollout status deployment --timeout=120s
node=$(kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
echo
echo "guestbook:  http://$node:30080/"
echo "kubectl:    export KUBECONFIG=$data/kubeconfig; $skiff kubectl get pods -A"
