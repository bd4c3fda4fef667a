# shellcheck shell=bash
# What every node and the driver of a Ray cluster of this project share; stego_dist/jobs/cluster.py has the same.

ray_settings() {
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN # over any token that lies in HOME
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    unset RAY_AUTH_TOKEN_PATH
    export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_worker_niceness=0
    # a lost node is noticed in seconds
    export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000
    export RAY_health_check_failure_threshold=3
    export RAY_grpc_client_keepalive_time_ms=5000 RAY_grpc_client_keepalive_timeout_ms=3000
}
