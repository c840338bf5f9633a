#!/bin/sh
# Ends the cluster in DATA_DIR and leaves nothing of it: also after kill -9.
set -eu
data=$1
skiff=${SKIFF:-$(cd "$(dirname "$0")/../.." && pwd)/bin/skiff}
if [ -f "$data/skiff.pid" ]; then
	pid=$(cat "$data/skiff.pid")
	if [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$skiff" ]; then
		kill "$pid" 2>/dev/null || true
		n=0
		while kill -0 "$pid" 2>/dev/null && [ $n -lt 150 ]; do n=$((n + 1)); sleep 0.1; done
	fi
fi
[ ! -d "$data" ] || "$skiff" reset --data-dir "$data" --yes
