"""What a sweep's trial costs beyond its steps, and the same trials from the bank against the backbone in every step.

    stego-dist knn build configs/camvid11_vitti16.yaml
    python -m tests.benchmarks.trial configs/camvid11_vitti16.yaml
    python -m tests.benchmarks.trial CONFIG --trials 5 --steps 100 --online-steps 0

Trials differ in the shift of self pairs, and follow one another in this process, as in a worker of a sweep.

1. from the bank: seconds of steps, of validations, and of all else; the first opens what the others find open;
2. online (train.features and eval.features): the same trials, of fewer steps where --online-steps says so;
3. the ratio: a trial of --full steps each way, by the medians of the later trials.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stego_dist.config import load_config
from stego_dist.engine.trial import run_trial
from stego_dist.jobs.sweep.plan import POINTS, SCREEN
from stego_dist.rundir import RunDir, read_metrics
from tests.benchmarks.timing import table


@dataclass(frozen=True)
class Cost:
    """Seconds of a trial."""

    step: float
    """Each."""
    validations: float
    """All."""
    rest: float

    @property
    def overhead(self) -> float:
        """Beyond its steps."""
        return self.validations + self.rest


def trials(config: str, overrides: list[str], folder: Path, count: int, steps: int) -> list[Cost]:
    """Costs of so many trials, one after the other."""
    found = []
    for number in range(count):
        run = folder / f"trial{number}"
        own = [
            f"run_dir={run}", f"train.steps={steps}", f"train.validate_every={steps}", "train.log_every=10",
            f"loss.self_pair.shift={0.4 + 0.02 * number}", "loss.self_pair.weight=0.67",
            "loss.knn_pair.shift=0.5", "loss.knn_pair.weight=0.25",
            "loss.random_pair.shift=0.6", "loss.random_pair.weight=0.63",
            f"clusters.points={POINTS}", f"clusters.screen={SCREEN}",
        ]  # fmt: skip
        numbers = run_trial(load_config(config, [*own, *overrides]))
        validations = sum(line.get("val/seconds") or 0.0 for line in read_metrics(RunDir(run).metrics))
        rest = numbers["seconds/overhead"] - validations
        found.append(Cost(numbers["seconds/train"] / steps, validations, rest))
    return found


def costs_table(title: str, costs: list[Cost]) -> str:
    """A row for each trial."""
    rows: list[list[object]] = [[n, c.step, c.validations, c.rest, c.overhead] for n, c in enumerate(costs, 1)]
    return table(title, ["trial", "s/step", "validations, s", "all else, s", "overhead, s"], rows)


def typical(costs: list[Cost]) -> Cost:
    """Medians of all trials but the first."""
    later = costs[1:] or costs
    return Cost(*(statistics.median(getattr(c, name) for c in later) for name in ("step", "validations", "rest")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration whose bank and table are built")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--online-steps", type=int, default=5, help="0: only from the bank")
    parser.add_argument("--online-trials", type=int, default=2)
    parser.add_argument("--full", type=int, default=250, help="steps of the trials that are compared")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        bank = ["train.features=bank", "eval.features=bank", *args.overrides]
        kept = trials(args.config, bank, Path(folder) / "bank", args.trials, args.steps)
        print(costs_table(f"Trials of {args.steps} steps from the bank", kept))
        if not args.online_steps:
            return
        online = ["train.features=online", "eval.features=online", *args.overrides]
        computed = trials(args.config, online, Path(folder) / "online", args.online_trials, args.online_steps)
    print(costs_table(f"Trials of {args.online_steps} steps online", computed))
    seconds = {
        name: c.step * args.full + c.overhead for name, c in (("online", typical(computed)), ("bank", typical(kept)))
    }
    rows: list[list[object]] = [[name, value, seconds["online"] / value] for name, value in seconds.items()]
    print(table(f"A trial of {args.full} steps with one validation", ["features", "s", "ratio"], rows))


if __name__ == "__main__":
    main()
