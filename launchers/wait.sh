# shellcheck shell=bash
# wait_for PID: wait for a child to its end, also when signals come meanwhile; leaves its exit code in $code.
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
