"""The step and its benchmark run where there is torch and timm and nothing else of what training needs."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO
from tests.launching import environment

BLOCKED = ("pydantic", "omegaconf", "ray", "faiss", "webdataset", "accelerate")
PROGRAM = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Block())
import stego_dist.engine.step, stego_dist.features.bank, stego_dist.losses.linear, stego_dist.losses.sampling
from tests.benchmarks.step import main
main("--size 32 --batch 4 --samples 8 --lines 8 --classes 3 --repeats 1 --threads 1 --no-compile --no-ranks".split())
"""


def test_the_step_benchmark_runs_on_a_bare_machine():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPO, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    first = {row[0]: row[4] for row in rows[2:]}
    assert first["published step, float32"] == first["online, float32, every pixel"]
    assert len(first) == 8 and all(float(row[2]) > 0 for row in rows[2:])
