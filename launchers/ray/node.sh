#!/bin/bash
# node.sh ADDRESS PORT [RANK]: this host's part of a Ray cluster, until SIGTERM. RANK 0 (default: SLURM_NODEID) is the
# head, at ADDRESS:PORT. CPUs and GPUs are those of the allocation, or all; STEGO_RAY_CPUS and STEGO_RAY_GPUS go first.
set -euo pipefail
address=$1 port=$2 rank=${3:-${SLURM_NODEID:-0}}
# shellcheck source=launchers/common.sh
. "${STEGO_LAUNCHERS:-launchers}/common.sh"
temp=$STEGO_SCRATCH/stego-ray-$(id -u)-$port
flags=(
    --block --disable-usage-stats --temp-dir="$temp" --object-store-memory=$((256 * 2 ** 20))
    --num-cpus="${STEGO_RAY_CPUS:-${SLURM_CPUS_ON_NODE:-$(nproc)}}"
    --dashboard-agent-listen-port=0 --metrics-export-port=0 --runtime-env-agent-port=0
)
gpus=${STEGO_RAY_GPUS:-${SLURM_GPUS_ON_NODE:-}}
if [ -n "${SLURM_JOB_ID:-}" ] || [ -n "$gpus" ]; then
    flags+=(--num-gpus="${gpus:-0}")
fi
if [ "$rank" = 0 ]; then
    flags+=(--head --port="$port" --node-ip-address="$address" --include-dashboard=false
        --ray-client-server-port=$((port + 16)))
else
    "${run[@]}" python -m stego_dist.network wait "$address" "$port" 120
    own=$("${run[@]}" python -m stego_dist.network address "$address")
    flags+=(--address="$address:$port" --node-ip-address="$own")
fi
ulimit -n "$(ulimit -Hn)"
unset OMP_NUM_THREADS # Ray gives a worker as many as it holds CPUs
ended=''
trap 'ended=yes; kill -TERM "$node" 2>/dev/null || true' TERM
for attempt in 1 2 3; do # Ray gives its start half a minute, which is short on a slow file system
    "${run[@]}" ray start "${flags[@]}" >"$temp.log" 2>&1 & # it has much to say when all is well
    node=$!
    wait_for "$node"
    [ -z "$ended" ] || code=0
    ((code)) || break
    cat "$temp.log" >&2
    say "Ray ended with $code, at attempt $attempt of 3"
done
rm -rf "$temp" "$temp.log"
exit "$code"
