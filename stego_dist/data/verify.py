"""Is a shard set whole? Every damaged file is named, and what is wrong with it.

In: a shard set. Out: one line a problem; none means whole.

1. the manifest against its own checksum;
2. each tar and index against the checksum in the manifest;
3. the index against the members of the tar;
4. images and labels: decodable, of one size, ids in range.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.data.card import IGNORED
from stego_dist.data.manifest import Shard, ShardSet
from stego_dist.data.samples import INDEX_ARRAYS, decode_label
from stego_dist.data.sources import open_image
from stego_dist.errors import UserError
from stego_dist.rundir import sha256_file

PROCESS_BYTES = 2**28
"""Tars for which another process is worth its start."""


def verify(shard_set: ShardSet, decode: int | Literal["all"] = "all", workers: int | None = None) -> list[str]:
    """Check every file of a shard set; of each shard decode `decode` samples, spread evenly, or all.

    Runs in `workers` processes; 1: here; default: one a CPU, but not for less than PROCESS_BYTES of tars.
    Bad content never raises, and a process that the system kills (memory) is a problem that names the shards left.
    """
    problems = []
    if shard_set.manifest.content_digest() != shard_set.manifest.checksum:
        problems.append(f"{shard_set.storage.where('manifest.json')}: edited after it was written (checksum differs)")
    jobs = [(shard, split.labelled) for split in shard_set.manifest.splits for shard in split.shards]
    check = partial(_check_shard, shard_set, decode)
    useful = 1 + sum(shard.bytes for shard, _ in jobs) // PROCESS_BYTES
    workers = min(workers or min(os.cpu_count() or 1, useful), len(jobs))
    with console.progress("verifying", len(jobs), "shards") as bar:
        if workers <= 1:
            for job in jobs:
                problems += check(job)
                bar.advance()
        else:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                results = pool.map(check, jobs)
                for number, (shard, _) in enumerate(jobs):
                    try:
                        problems += next(results)
                    except BrokenProcessPool:
                        problems.append(
                            f"{shard_set.tar(shard)}: not checked, nor the {len(jobs) - number - 1} shards after it: a "
                            "worker process was killed, most often for lack of memory; try again with --workers 1"
                        )
                        break
                    bar.advance()
    return problems


def _check_shard(shard_set: ShardSet, decode: int | Literal["all"], job: tuple[Shard, bool]) -> list[str]:
    """The problems of one shard; what lies far away is checked in a local copy."""
    shard, labelled = job
    problems: list[str] = []
    with contextlib.ExitStack() as copies:
        local: list[Path | None] = []
        for name, expected in ((shard.tar, shard.sha256), (shard.index, shard.index_sha256)):
            where = shard_set.storage.where(name)
            try:
                path = copies.enter_context(shard_set.storage.local_copy(name))
                if sha256_file(path) != expected:
                    problems.append(f"{where}: not the bytes that were written (sha256 differs)")
                local.append(path)
            except OSError as error:
                problems.append(f"{where}: cannot be read: {error.strerror}")
                local.append(None)
            except UserError as error:
                problems.append(f"{where}: cannot be read: {error}")
                local.append(None)
        tar, index = local
        return (
            problems
            if tar is None or index is None
            else problems + _check_files(shard_set, shard, labelled, tar, index, decode)
        )


def _check_files(
    shard_set: ShardSet, shard: Shard, labelled: bool, tar_file: Path, index_file: Path, decode: int | Literal["all"]
) -> list[str]:
    """The problems of a tar with its index."""
    tar_path, index_path = shard_set.tar(shard), shard_set.index(shard)
    problems: list[str] = []
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar_file) as tar:
            for member in tar:
                members[member.name] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        problems.append(f"{tar_path}: not a whole tar: {error}")
        return problems
    try:
        with np.load(index_file) as npz:
            index = {name: npz[name] for name in (*INDEX_ARRAYS, "name")}
    except Exception as error:  # a damaged zip raises nearly anything
        problems.append(f"{index_path}: not a readable index: {error}")
        return problems
    if any(len(array) != shard.samples for array in index.values()):
        problems.append(f"{index_path}: does not hold the manifest's {shard.samples} samples")
        return problems
    keys = [f"{source:09d}_{crop}" for source, crop in zip(index["source"], index["crop"])]
    return (
        problems
        + _check_index(shard_set, shard, labelled, keys, index, members)
        + _check_samples(shard_set, shard, labelled, tar_file, keys, members, decode)
    )


def _check_index(
    shard_set: ShardSet,
    shard: Shard,
    labelled: bool,
    keys: list[str],
    index: dict[str, NDArray[np.generic]],
    members: dict[str, tuple[int, int]],
) -> list[str]:
    """Members that the index places elsewhere, and members it does not know."""
    known, wrong = {f"{key}.json" for key in keys}, []
    for suffix, spans in ((".jpg", index["image"]), (".label.png", index["label"])):
        for key, span in zip(keys, spans.tolist()):
            known.add(key + suffix)
            found = members.get(key + suffix, (-1, -1))
            if tuple(span) != found or (found[0] < 0 and (suffix == ".jpg" or labelled)):
                wrong.append(f"{key}{suffix} at {span}, in the tar at {[*found]}")
    problems = [f"{shard_set.index(shard)}: {len(wrong)} wrong places, first {wrong[0]}"] if wrong else []
    if extra := sorted({*members} - known):
        problems.append(f"{shard_set.tar(shard)}: members that the index does not list: {extra[:5]}")
    return problems


def _check_samples(
    shard_set: ShardSet,
    shard: Shard,
    labelled: bool,
    tar_file: Path,
    keys: list[str],
    members: dict[str, tuple[int, int]],
    decode: int | Literal["all"],
) -> list[str]:
    """Images and labels that cannot be decoded, do not fit each other or hold ids out of range."""
    path, classes = shard_set.tar(shard), shard_set.num_classes or IGNORED
    keys = [key for key in keys if f"{key}.jpg" in members]
    count = len(keys) if decode == "all" else min(decode, len(keys))
    problems = []
    with tar_file.open("rb") as file:

        def read(name: str) -> bytes:
            offset, size = members.get(name, (0, 0))
            file.seek(offset)
            return file.read(size)

        for i in np.linspace(0, len(keys) - 1, count).astype(int):
            try:
                image = open_image(read(f"{keys[i]}.jpg"), f"{path}: {keys[i]}.jpg")
                if labelled:
                    name = f"{keys[i]}.label.png"
                    ids = decode_label(read(name), f"{path}: {name}")
                    if ids.shape != image.size[::-1]:
                        problems.append(f"{path}: {name}: {ids.shape[::-1]}, its image {image.size}")
                    if (wrong := np.unique(ids[(ids >= classes) & (ids != IGNORED)])).size:
                        problems.append(f"{path}: {name}: ids {wrong.tolist()} for {classes} classes")
            except UserError as error:
                problems.append(str(error))
    return problems
