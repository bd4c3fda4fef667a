#!/bin/bash
# host.sh ADDRESS PORT VERB …: this host's processes of an allocation, by `accelerate launch`. srun starts it on each.
set -euo pipefail
address=$1 port=$2
shift 2
read -ra run <<<"${STEGO_RUN:-}"
processes=${STEGO_PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
threads=$((${SLURM_CPUS_ON_NODE:-1} / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120} # seconds to save, after a signal
export PET_SIGNALS_TO_HANDLE=SIGUSR2,SIGINT,SIGHUP,SIGQUIT                   # guarded.sh says why
ulimit -n "$(ulimit -Hn)"
exec "${run[@]}" accelerate launch --config_file "${STEGO_LAUNCHERS:-launchers}/accelerate/slurm.yaml" \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * processes)) --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$address" --main_process_port "$port" -m stego_dist "$@"
