"""`stego-dist train CONFIG`: one process; `accelerate launch -m stego_dist train CONFIG`: many."""

from __future__ import annotations

import argparse
from typing import Any

from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train",
        help="train head and probes",
        epilog=(
            "examples:\n"
            "  stego-dist train configs/camvid11_vitti16.yaml\n"
            "  stego-dist train CONFIG train.steps=200 run_dir=runs/short\n"
            "  stego-dist train CONFIG --resume                    after a stop (exit code 75) or a crash\n"
            "  stego-dist train CONFIG --resume train.steps=9000   go on for longer\n"
            "  stego-dist train CONFIG train.accumulate=2          half the memory, same result (2 groups or more)\n"
            "several processes, as many as divide the groups; the number may change with --resume:\n"
            "  accelerate launch --config_file launchers/accelerate/gpus.yaml --num_processes 4 \\\n"
            "      -m stego_dist train CONFIG --resume\n"
            "two machines of 8 GPUs, on machine R (0 or 1), IP being an address of the first one:\n"
            "  accelerate launch --config_file launchers/accelerate/nodes.yaml --num_processes 16 --num_machines 2 \\\n"
            "      --machine_rank R --main_process_ip IP --main_process_port 29500 -m stego_dist train CONFIG\n"
            "on Slurm: sbatch --nodes=2 --gpus-per-node=8 launchers/slurm/train.sbatch CONFIG\n\n"
            "exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 stopped by SIGTERM, SIGUSR1 or SIGUSR2\n"
            "and saved (continue with --resume), 130 interrupted. accelerate launch turns all but 0 into 1;\n"
            "RUN/status.json has the run's own. Look at RUN/metrics.jsonl, RUN/samples, and\n"
            "tensorboard --logdir RUN/tensorboard."
        ),
    )
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run if it was begun, else begin it")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where a run already lies")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 0 done, 75 saved and to be resumed."""
    config = config_of(args)
    from stego_dist.engine.train import train
    from stego_dist.report.panels import write_samples

    return train(config, resume=args.resume, overwrite=args.overwrite, draw=write_samples)
