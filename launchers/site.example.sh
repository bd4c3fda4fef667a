# shellcheck shell=bash
# What differs between sites. Copy it to launchers/site.sh (which git ignores) and change what you need; every
# script here reads it, where a job is submitted and on its hosts. A variable of the environment goes first.

# The environment of the commands: modules, and the one that the project is installed in.
# module load cuda
if [ -f .venv/bin/activate ]; then
    # shellcheck source=/dev/null
    . .venv/bin/activate
fi

# What every command of the project runs under, words separated by spaces. In a container, for instance:
# "apptainer exec --nv --bind /data stego.sif"
: "${STEGO_RUN:=}"

# Processes a host trains with; empty: one a GPU of the allocation, or one.
: "${STEGO_PROCESSES:=}"

# Network interface between hosts (ib0, hsn0, eth1); empty: the one that leads to the job's first host.
: "${STEGO_INTERFACE:=}"

# Folder on every host's own disk, for Ray's files (a short path: sockets lie below it).
: "${STEGO_SCRATCH:=/tmp}"

# Folder on every host's own disk that shards are copied to before training, for slow file systems; empty: not copied.
: "${STEGO_STAGE:=}"

# How often a job is started again after preemption, time limits and failures of hosts before it is given up.
: "${STEGO_MAX_RESTARTS:=20}"

# Flags of sbatch that `pipeline` passes: to every stage, then to each, words separated by spaces; later ones go first.
: "${STEGO_SBATCH:=}"         # --account=ME --partition=gpu
: "${STEGO_SBATCH_SHARDS:=}"  # --partition=cpu --nodes=2 --cpus-per-task=32 --time=4:00:00
: "${STEGO_SBATCH_KNN:=}"     # --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=4:00:00
: "${STEGO_SBATCH_TRAIN:=}"   # --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=12:00:00
: "${STEGO_SBATCH_EVAL:=}"    # --gpus-per-node=1 --cpus-per-task=8 --time=1:00:00
: "${STEGO_SBATCH_SWEEP:=}"   # --nodes=4 --gpus-per-node=4 --cpus-per-task=32 --time=12:00:00
