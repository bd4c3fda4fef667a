# shellcheck shell=bash disable=SC2034  # what is set here is used where this is sourced
# What all scripts of this folder share: the site's settings, and
#
#   say …, fail …       a line on stderr; fail ends the script
#   wait_for PID        wait for a child to its end, also when signals come meanwhile; leaves its exit code in $code
#
# They are run in the project's folder; STEGO_LAUNCHERS says where this folder is when it is elsewhere.

launchers=${STEGO_LAUNCHERS:-launchers}
site=${STEGO_SITE:-$launchers/site.sh}
[ -f "$site" ] || site=$launchers/site.example.sh
# shellcheck source=launchers/site.example.sh
. "$site"
export STEGO_RUN STEGO_PROCESSES STEGO_INTERFACE STEGO_SCRATCH
read -ra run <<<"$STEGO_RUN"

say() { echo "[$(date +%T)] ${SLURM_JOB_NAME:-stego}: $*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

wait_for() {
    local late=0
    code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    wait "$1" 2>/dev/null || late=$? # its own code, when a signal ended the last wait; else 127: it is known already
    ((late == 127)) || code=$late
}
