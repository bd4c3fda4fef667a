#!/bin/bash
# stage.sh FROM TO: copy a shard set to this host's own disk, once; another job that wants it meanwhile waits.
set -euo pipefail
from=$1 to=$2
mkdir -p "$(dirname "$to")"
exec 9>"$to.lock"
flock 9
[ ! -e "$to/manifest.json" ] || exit 0
rm -rf "$to.part"
cp -r "$from" "$to.part"
mv "$to.part" "$to"
