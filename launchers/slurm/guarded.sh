#!/bin/bash
# guarded.sh SIGNAL COMMAND…: run it; the first TERM or USR1 that comes becomes one SIGNAL for it, TERM or USR2.
#
# Slurm signals this shell alone or, depending on how the site tracks processes, every process of the step. `accelerate
# launch` bears one signal only: at a second one it would leave its processes behind, and Slurm would kill them while
# they save. So it is started with USR1 and TERM ignored (the processes that train listen to both) and gets a USR2.
set -u
# shellcheck source=launchers/common.sh
. "${STEGO_LAUNCHERS:-launchers}/common.sh"
signal=$1 command='' stop=''
shift
trap 'trap "" TERM USR1; stop=yes; [ -z "$command" ] || kill "-$signal" "$command" 2>/dev/null' TERM USR1
(
    trap '' USR1
    [ "$signal" = TERM ] || trap '' TERM
    exec "$@"
) &
command=$!
[ -z "$stop" ] || kill "-$signal" "$command"
wait_for "$command"
exit "$code"
