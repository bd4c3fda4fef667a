# shellcheck shell=bash
# A Ray cluster inside an allocation, of this job alone; sourced by the batch scripts after launchers/slurm/common.sh:
#
#   ray_up      start it on every host and export RAY_ADDRESS; with RAY_ADDRESS already set that cluster is used
#   ray_down    end what ray_up started, and nothing else
#
# Ports, token and folders are the job's own, so that two jobs may share a host.

# shellcheck source=launchers/ray/settings.sh
. "$launchers/ray/settings.sh"
ray=''

ray_up() {
    if [ -n "${RAY_ADDRESS:-}" ]; then
        say "using the Ray cluster at $RAY_ADDRESS"
        return
    fi
    meet
    ray_settings
    srun --overlap "${every[@]}" bash "$launchers/slurm/guarded.sh" TERM \
        bash "$launchers/ray/node.sh" "$address" "$port" &
    ray=$!
    until on_first python -m stego_dist.network wait "$address" "$port" 5 2>/dev/null && ((code == 0)); do
        [ -z "$signalled" ] || { ray_down && again "stopped by a signal"; }
        kill -0 "$ray" 2>/dev/null || fail "Ray did not start"
    done
    export RAY_ADDRESS=$address:$port STEGO_RAY_NODES=${#hosts[@]}
}

ray_down() {
    [ -n "$ray" ] || return 0
    kill -USR1 "$ray" 2>/dev/null || true
    wait "$ray" || true
    ray=''
}
