"""Train and evaluate a configuration with several seeds; print a table of accuracy and mIoU with means.

    python tests/benchmarks/seeds.py configs/camvid11_vitti16.yaml --seeds 0 1 2

Shards and neighbour table must be there. Finished runs (runs/NAME_seedN) are not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from stego_dist.cli import main as stego
from stego_dist.config import load_config
from stego_dist.report.tables import readable


def evaluate_seed(config: str, name: str, seed: int, overrides: list[str]) -> dict[str, tuple[float, float]]:
    """(accuracy, mIoU) in percent by measure, the raw-feature baseline included."""
    run = Path("runs") / f"{name}_seed{seed}"
    for command in (
        ["train", config, f"seed={seed}", f"run_dir={run}", "--resume", *overrides],
        ["eval", str(run), "--baseline"],
    ):
        if stego(command):
            raise SystemExit(f"{' '.join(command)} failed")
    results = json.loads((run / "results.json").read_text())
    measures = {readable(key): entry for key, entry in results["measures"].items()}
    measures["raw features, k-means"] = results["baselines"]["raw features"]["measures"]["kmeans"]
    return {key: (100 * entry["accuracy"], 100 * entry["miou"]) for key, entry in measures.items()}


def main() -> None:
    """Run all seeds and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*")
    args, rest = parser.parse_known_args()
    name = load_config(args.config).name
    rows = [evaluate_seed(args.config, name, seed, args.overrides + rest) for seed in args.seeds]
    print("\n| accuracy / mIoU, % | " + " | ".join(f"seed {s}" for s in args.seeds) + " | mean |")
    print("|---" * (len(args.seeds) + 2) + "|")
    for key in rows[0]:
        cells = [f"{row[key][0]:.1f} / {row[key][1]:.1f}" for row in rows]
        mean = np.mean([row[key] for row in rows], axis=0)
        print(f"| {key} | " + " | ".join(cells) + f" | {mean[0]:.1f} / {mean[1]:.1f} |")


if __name__ == "__main__":
    main()
