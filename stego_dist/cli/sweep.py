"""`stego-dist sweep CONFIG`: many short runs over a space of settings, on Ray, and the best of them."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stego_dist import console
from stego_dist.cli.common import add_config, config_of

if TYPE_CHECKING:
    from stego_dist.jobs.sweep.plan import Folder, Plan

SHOWN = 4
"""Best trials whose pictures are shown."""
EPILOG = """\
Features and neighbour table are built first where they are missing. Trials are chosen by the label-free score, so no
label is used; where there are labels, mIoU and accuracy are reported beside it. Set train.features=bank, so that the
backbone runs once and not in every trial.

--space FILE has a key of the configuration a line; without it the six weights and shifts of the loss are varied:
  loss.self_pair.shift: {uniform: [0.0, 0.8]}
  loss.self_pair.weight: {loguniform: [0.1, 2.0]}
  head.code_dim: {int: [32, 128], step: 16}
  head.projection: {choice: [nonlinear, linear]}
  seed: {grid: [0, 1, 2]}              every draw of the others with each of these
--search random draws --trials times (at every point of the grids), grid takes all points of keys that can be counted,
optuna proposes values (TPE). Draw n is a function of --seed and n, and optuna's with one trial at a time.

examples:
  stego-dist sweep configs/camvid11_vitti16.yaml --trials 32
  stego-dist sweep CONFIG --space space.yaml --search optuna --trials 64 --early-stop asha train.steps=500
  stego-dist sweep CONFIG --gpus 0.25                      four trials share a GPU
  stego-dist sweep CONFIG --processes 4 --concurrent 2     each by accelerate launch, on four GPUs where there are any
  stego-dist sweep CONFIG --address 10.0.0.1:6379          on a running cluster; all its nodes see --out
  stego-dist sweep CONFIG --resume                         after a stop or a crash; with a higher --trials, go on
  stego-dist sweep CONFIG --objective miou                 chooses by labels, and says so everywhere
  stego-dist train sweeps/NAME/best.yaml                   the best again, for itself

In a Slurm job that has started Ray on its nodes, RAY_ADDRESS names the cluster. Exit codes: 0 done, 1 failed, 2 wrong
usage or configuration, 75 stopped by SIGTERM, 130 by ctrl-C; --resume goes on without repeating what is finished."""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("sweep", help="try many settings and choose, without labels", epilog=EPILOG)
    add_config(parser)
    what = parser.add_argument_group("what is tried")
    what.add_argument("--space", type=Path, metavar="FILE", help="keys and their values, see below")
    what.add_argument("--search", choices=("random", "grid", "optuna"), default="random", help="default: random")
    what.add_argument("--trials", type=_count, metavar="N", help="draws; default: 32, or all points of a grid")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws; default: 0")
    what.add_argument(
        "--objective",
        choices=("label_free", "miou"),
        default="label_free",
        help="default: label_free; miou: by labels",
    )
    what.add_argument("--early-stop", choices=("off", "asha"), default="off", help="asha: stop what falls behind")
    what.add_argument("--grace", type=_count, metavar="STEPS", help="asha: steps that all get; default: a tenth of all")
    what.add_argument("--reduction", type=float, default=3.0, metavar="R", help="asha: one in R goes on; default: 3")
    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, metavar="DIR", help="folder of the sweep; default: sweeps/NAME")
    how.add_argument("--concurrent", type=_count, metavar="N", help="trials at a time; default: all that have a place")
    how.add_argument("--processes", type=_count, default=1, metavar="N", help="of a trial; default: 1")
    how.add_argument("--cpus", type=_count, metavar="N", help="of a trial; default: one a process")
    how.add_argument("--gpus", type=float, metavar="G", help="of a trial, 0.5: two share one; default: one a process")
    how.add_argument("--retries", type=int, default=2, metavar="N", help="of a trial that fails; default: 2")
    how.add_argument(
        "--address", metavar="HOST:PORT", help="a running Ray cluster; default: RAY_ADDRESS or a local one"
    )
    how.add_argument("--resume", action="store_true", help="go on with a sweep that was stopped")
    how.add_argument("--overwrite", action="store_true", help="begin anew where a sweep already lies")
    how.add_argument("--dry-run", action="store_true", help="say trials, steps and bytes, and end")
    how.add_argument("--json", action="store_true", help="the whole result (sweep.json) on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, build what is missing, run the trials, write what was found."""
    if args.address:
        os.environ["RAY_ADDRESS"] = args.address
    from stego_dist.jobs.cluster import ray_cluster
    from stego_dist.jobs.sweep.banks import build_missing, configs_of
    from stego_dist.jobs.sweep.drive import Resources, drive
    from stego_dist.jobs.sweep.dry import foresee
    from stego_dist.jobs.sweep.plan import Folder, begin
    from stego_dist.jobs.sweep.search import known_values

    plan = plan_of(args)
    folder = Folder(args.out or Path("sweeps") / plan.base.name)
    configs = configs_of(plan.base, plan.space, known_values(plan))
    if args.dry_run:
        for line in foresee(plan, configs, len(folder.results()) if args.resume else 0):
            console.out.print(line, soft_wrap=True, highlight=False)
        return 0
    begin(plan, folder, resume=args.resume, overwrite=args.overwrite)
    if plan.base.train.features == "online":
        console.say("train.features=online: every trial runs the backbone; train.features=bank runs it once for all")
    resources = Resources(args.concurrent, args.cpus or args.processes, args.gpus)
    with ray_cluster():
        build_missing(configs)
        stopped = drive(plan, folder, resources, retries=args.retries)
    if stopped is not None:
        ended = len(folder.results())
        console.say(
            f"stopped: {ended} of {plan.trials} trials are finished and kept in {folder.root}; go on with the same "
            "command and --resume",
            style="yellow",
        )
        return 130 if stopped == signal.SIGINT else 75
    return _conclude(plan, folder, args.json)


def plan_of(args: argparse.Namespace) -> Plan:
    """What the arguments ask for, checked. Raises ConfigError, UserError for a shard set that is not there."""
    from dataclasses import replace

    from stego_dist.jobs.sweep.check import check
    from stego_dist.jobs.sweep.plan import Plan
    from stego_dist.jobs.sweep.search import count
    from stego_dist.jobs.sweep.space import load_space

    base = config_of(args)
    plan = Plan(
        base=base,
        space=load_space(args.space, base),
        search=args.search,
        objective=args.objective,
        seed=args.seed,
        early_stop=args.early_stop,
        grace=args.grace or max(1, base.train.steps // 10),
        reduction=args.reduction,
        processes=args.processes,
    )
    plan = replace(plan, trials=count(plan, args.trials))
    check(plan)
    return plan


def _conclude(plan: Plan, folder: Folder, as_json: bool) -> int:
    from stego_dist.data.manifest import ShardSet
    from stego_dist.jobs.sweep.gallery import validate_again
    from stego_dist.jobs.sweep.summary import conclude
    from stego_dist.report.sweep import best_trials, print_sweep, write_sweep_page

    found = conclude(plan, folder)
    shown = best_trials(found, SHOWN) if plan.base.train.panels else []
    shard_set = ShardSet.open(plan.base.data.shards, plan.base.data.storage)
    write_sweep_page(folder.root, found, validate_again(folder, shown), shard_set.palette)
    if as_json:
        print(json.dumps(found))
    else:
        print_sweep(found, folder.root)
    return 0


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError  # argparse names the option and the text
    return value
