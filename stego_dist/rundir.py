"""Where things lie on disk, how they are written, and how their inputs are told apart.

Every file the project leaves behind is written under a temporary name, flushed to disk and renamed, so that
a reader sees the whole file or none. A *fingerprint* is a flat dictionary of what an output depends on; its
digest goes into the output's manifest, and `check_fingerprint` refuses to read an output whose inputs differ,
naming each field.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stego_dist.errors import StaleInputError, UserError

Fingerprint = dict[str, Any]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success flush it and rename it to `path`.

    On any error the temporary file or folder is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield tmp
        if tmp.is_dir():
            for file in tmp.rglob("*"):
                if file.is_file():
                    _fsync(file)
            if path.exists():
                shutil.rmtree(path)
        else:
            _fsync(tmp)
        tmp.replace(path)
        _fsync(path.parent)
    finally:
        if tmp.is_dir():
            shutil.rmtree(tmp, ignore_errors=True)
        else:
            tmp.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what a killed writer of `atomic_path` left directly in `folder`; returns what there was."""
    left = sorted(folder.glob(".*.????????.tmp"))
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


@contextlib.contextmanager
def writing_to(folder: Path, remedy: str) -> Iterator[None]:
    """Turn an OSError of what is written into `folder` into a UserError that names both and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause, advice = "the disk or the quota is full", "Free some space there, or choose another folder."
        else:
            cause, advice = f"{error.strerror or error}", "Make the folder writable, or choose another one."
        raise UserError(f"cannot write to {folder}: {cause}. {advice} {remedy}") from None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: JSON has neither."""
    with atomic_path(path) as tmp:
        tmp.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Read a JSON file. Raises UserError naming `what` it is and the `remedy` when it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path} does not exist. {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} is damaged: {path}: {error}. {remedy}") from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_fingerprint(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raise StaleInputError naming every field in which `found` differs from `wanted`."""
    differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if differing:
        lines = [f"  {key}: made with {found.get(key)!r}, now {wanted.get(key)!r}" for key in differing]
        raise StaleInputError(f"{what} was made from something else:\n" + "\n".join(lines) + f"\n{remedy}")


def code_revision() -> str:
    """The git revision of the source tree (with `+` when it has uncommitted changes), or `unknown`."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class RunDir:
    """Every path of a training run."""

    root: Path

    @classmethod
    def existing(cls, root: Path) -> RunDir:
        """A run that was begun. Raises UserError when there is none."""
        run = cls(root)
        if not run.config.is_file():
            raise UserError(f"{root} is no run: it has no config.yaml; train one with `stego-dist train CONFIG`")
        return run

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Code revision, versions, and the fingerprints of what went in."""
        return self.root / "provenance.json"

    @property
    def calibration(self) -> Path:
        """Where the loss's coefficients come from, when they were calibrated."""
        return self.root / "calibration.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step."""
        return self.root / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """What became of the run: state, step, exit code."""
        return self.root / "status.json"

    @property
    def checkpoints(self) -> Path:
        """Folders `step-00000000` to resume from."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished segmenter: head, probes and cluster centres (safetensors)."""
        return self.root / "model.safetensors"

    @property
    def names(self) -> Path:
        """Names and colours that people gave the clusters."""
        return self.root / "names.yaml"

    @property
    def results(self) -> Path:
        """Every number of the evaluation."""
        return self.root / "results.json"

    @property
    def trial(self) -> Path:
        """The numbers of a sweep's trial, and the settings that they belong to."""
        return self.root / "trial.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def samples(self) -> Path:
        """Pictures of a few validation images, one file a validation."""
        return self.root / "samples"

    @property
    def profile(self) -> Path:
        """Traces of torch's profiler."""
        return self.root / "profile"

    @property
    def panels(self) -> Path:
        """Pictures: image, label, clusters, linear probe."""
        return self.root / "panels"

    def write_status(self, state: str, *, step: int, exit_code: int | None, **more: Any) -> None:
        """Record `state` (running, done, failed, interrupted, saved, stopped) for whoever launched the run."""
        write_json(self.status, {"state": state, "step": step, "exit_code": exit_code, **more})


def append_metrics(path: Path, line: Mapping[str, float]) -> None:
    """Append a line to metrics.jsonl; a number that is not finite becomes null."""
    finite = {key: value if math.isfinite(value) else None for key, value in line.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that was only half written; none when there is no file."""
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def drop_metrics_after(path: Path, step: int) -> None:
    """Remove the lines of steps that will be trained again."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    with atomic_path(path) as tmp:
        tmp.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
