# shellcheck shell=bash
# What the batch scripts share. Each sources it in the project's folder after `set -euo pipefail`, then:
#
#   begin               the hosts, the limit on restarts, and what Slurm's signals do
#   read_arguments "$@"
#   stage               the shards go to the hosts' own disks, where the site wants it
#   on_first …          a command on the first host
#   launch …            a verb of stego-dist by `accelerate launch` on every host; both leave the exit code in $code
#   again REASON        the job goes back into the queue, and this start of it ends
#   finish              this start ends, with $code
#
# The scripts are the same under sbatch and inside salloc, where nothing is requeued: they end with 75 instead.

# shellcheck source=launchers/common.sh
. "${STEGO_LAUNCHERS:-launchers}/common.sh"
export SLURM_EXPORT_ENV=ALL # steps get this environment, also after `sbatch --export=NONE`
overrides=() options=() restarts=0 signalled='' step=''

# CONFIG [section.key=value …] [-- options of the verb] → config, overrides, options
read_arguments() {
    (($#)) || fail "expected CONFIG [section.key=value …] [-- options of the verb]"
    config=$1
    shift
    while (($#)) && [ "$1" != -- ]; do
        overrides+=("$1")
        shift
    done
    (($#)) && shift
    while (($#)); do # a job that is started again goes on with what it began
        [ "$1" = --overwrite ] && ((restarts)) || options+=("$1")
        shift
    done
}

# Resolved settings of the configuration, a line each; refuses a wrong one before anything is started.
settings() { "${run[@]}" python -m stego_dist show "$config" "${overrides[@]}" --value "$@"; }

begin() {
    [ -n "${SLURM_JOB_ID:-}" ] || fail "there is no allocation: submit it with sbatch, or run it inside salloc"
    restarts=${SLURM_RESTART_COUNT:-0}
    if ((restarts > STEGO_MAX_RESTARTS)); then
        fail "started again $restarts times, more than STEGO_MAX_RESTARTS=$STEGO_MAX_RESTARTS; what is finished is kept"
    fi
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    if [ -n "$STEGO_INTERFACE" ]; then
        export GLOO_SOCKET_IFNAME=$STEGO_INTERFACE NCCL_SOCKET_IFNAME=$STEGO_INTERFACE
    fi
    # Slurm signals this shell alone (--signal=B:…). srun would kill the step at a TERM, and passes on a USR1.
    trap 'say "a signal: stopping"; signalled=yes; [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1 TERM
    say "start $((restarts + 1)) of job $SLURM_JOB_ID on ${hosts[*]}"
}

# A seed for every task of a job array, each with a run directory of its own.
seed_of_array() {
    local base
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || return 0
    base=$(settings run_dir)
    overrides+=("seed=$SLURM_ARRAY_TASK_ID" "run_dir=$base-seed$SLURM_ARRAY_TASK_ID")
}

# srun in the background, waited for also when a signal comes; leaves its exit code in $code.
steps() {
    srun "$@" &
    step=$!
    [ -z "$signalled" ] || kill -USR1 "$step"
    wait_for "$step"
    step=''
}

every=(--nodes="${SLURM_JOB_NUM_NODES:-1}" --ntasks="${SLURM_JOB_NUM_NODES:-1}" --ntasks-per-node=1 --whole)
on_first() {
    steps --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" --whole --overlap \
        bash "$launchers/slurm/guarded.sh" TERM "${run[@]}" "$@"
}

# Where the hosts meet: address, the first host's towards the second, and port, of 32 that are this job's own
# (20000 to 32287: above the ports that Ray's workers take, below those that connections get).
meet() {
    local peer=127.0.0.1
    if ((${#hosts[@]} > 1)); then # the address, for the first host may know the second one's name by no other way
        peer=$(scontrol -o show node "${hosts[1]}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    fi
    read -r address port < <(
        srun --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" --overlap "${run[@]}" python -m stego_dist.network \
            meet "$peer" $((20000 + SLURM_JOB_ID % 384 * 32)) --interface "$STEGO_INTERFACE"
    ) || fail "the hosts have no place to meet"
}

stage() {
    local shards copy
    [ -n "$STEGO_STAGE" ] || return 0
    shards=$(settings data.shards)
    [ -d "$shards" ] || return 0
    copy=$STEGO_STAGE/stego-shards-$(id -u)/$(sha256sum <"$shards/manifest.json" | cut -c1-16)
    steps "${every[@]}" bash "$launchers/slurm/stage.sh" "$shards" "$copy"
    [ -z "$signalled" ] || again "stopped by a signal"
    if ((code)); then
        say "the shards could not be copied to $STEGO_STAGE on all hosts; they are read where they are"
    else
        export STEGO_STAGED=$shards=$copy
    fi
}

launch() {
    meet
    steps "${every[@]}" --kill-on-bad-exit=1 \
        bash "$launchers/slurm/guarded.sh" USR2 bash "$launchers/slurm/host.sh" "$address" "$port" "$@"
}

# Back into the queue, unless it was cancelled or has been there too often.
again() {
    local job
    trap - USR1 TERM
    job=$(scontrol -o show job "$SLURM_JOB_ID")
    if [[ $job == *BatchFlag=0* ]]; then
        say "$1; run the same command again to go on"
        exit 75
    elif [[ $job != *JobState=RUNNING* && $job != *Reason=TimeLimit* ]]; then
        fail "$1, and it is ending: cancelled, or Slurm itself starts it again"
    elif ((restarts >= STEGO_MAX_RESTARTS)); then
        fail "$1, and started again $restarts times (STEGO_MAX_RESTARTS); submit it anew to go on"
    fi
    say "$1; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || fail "it can't be requeued here; submit it anew to go on"
    sleep 60 # Slurm ends this shell; an exit code now would be taken for the job's
    exit 75
}

# The end of a stage that goes on from what is finished when it is started again.
finish() {
    ((code == 0)) && exit 0
    [ -z "$signalled" ] || again "stopped by a signal"
    exit "$code"
}
