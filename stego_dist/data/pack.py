"""From a raw data set to a shard set: plan (plan.py), pack each shard, write the manifest.

In: a card, the folder of its data set, options. Out: tars, indices and `manifest.json` (shards/README.md).

1. `plan_build` makes a task for every shard;
2. `pack_shard` writes one shard: a pure function of its task, which any runner may call anywhere, in any
   order, and again; what is finished is skipped, what was made from something else is refused;
3. `finish_build` adds the shards' records up to the manifest, which appears last.
"""

from __future__ import annotations

import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist import __version__, console
from stego_dist.data.card import IGNORED, Card
from stego_dist.data.cut import cut_image
from stego_dist.data.manifest import Manifest, Shard, ShardSet, Split
from stego_dist.data.plan import BuildOptions, BuildPlan, PackTask, plan_build
from stego_dist.data.storage import LocalStorage, Storage, open_storage
from stego_dist.data.storage.base import scratch_folder
from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path, check_fingerprint, sha256_file, write_json, writing_to

Record = dict[str, Any]
Runner = Callable[[Callable[[PackTask], Record], Sequence[PackTask]], Iterable[Record]]
REMEDY = "Then build again: finished shards are kept."


def pack_shard(task: PackTask) -> Record:
    """Write a shard's tar, then its index, then its record, each whole or not at all; return the record.

    A finished shard is left as it is. Raises UserError naming shard, file and cause for an unreadable image
    or label (`on_error="skip"` notes it in the record and goes on), or for a folder that can't be written;
    StaleInputError for a finished shard of other inputs.
    """
    if (record := finished(task)) is not None:
        return record
    if not task.root.is_dir():  # or every image would be rejected one by one
        raise UserError(f"shard {task.name}: {task.root} does not exist on host {socket.gethostname()}")
    if task.target is not None:
        return _pack_and_upload(task, task.target)
    with writing_to(task.out, REMEDY):
        return _write_shard(task)


def _write_shard(task: PackTask) -> Record:
    rows: list[tuple[tuple[int, int], tuple[int, int], int, int, str]] = []
    pixels = np.zeros(256, np.int64)
    rejected: list[dict[str, str]] = []
    tar_path, index_path = task.out / f"{task.name}.tar", task.out / f"{task.name}.index.npz"
    with atomic_path(tar_path) as tmp, tarfile.open(tmp, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, source in task.sources:
            try:
                cuts = cut_image(source, task.card, task.options, task.labelled)
            except UserError as error:
                if task.options.on_error == "fail":
                    hint = "mend or remove the file, or leave such images out with --on-error skip"
                    raise UserError(f"shard {task.name}: {error}\n{hint}") from None
                file = source.image.relative_to(task.root).as_posix()
                rejected.append({"file": file, "cause": str(error).replace(f"{task.root}{os.sep}", "")})
                continue
            for crop, cut in enumerate(cuts):
                key = f"{number:09d}_{crop}"
                image_span, label_span = _add(tar, f"{key}.jpg", cut.jpeg), (-1, -1)
                if (png := cut.label_png) is not None:
                    pixels += np.array(cut.pixels)
                    label_span = _add(tar, f"{key}.label.png", png)
                meta = {"source": source.key, "crop": crop, **cut.meta}
                _add(tar, f"{key}.json", json.dumps(meta, ensure_ascii=False).encode())
                rows.append((image_span, label_span, number, crop, source.key))
    with atomic_path(index_path) as tmp, tmp.open("wb") as out:
        image, label_spans, numbers, crops, names = zip(*rows) if rows else ([], [], [], [], [])
        np.savez_compressed(
            out,
            image=np.array(image, np.int64).reshape(-1, 2),
            label=np.array(label_spans, np.int64).reshape(-1, 2),
            source=np.array(numbers, np.int64),
            crop=np.array(crops, np.int16),
            name=np.array(names, np.str_),
        )
    record = {
        "name": task.name,
        "split": task.split,
        "fingerprint": task.fingerprint,
        "labelled": task.labelled,
        "images": len(task.sources) - len(rejected),
        "samples": len(rows),
        "bytes": tar_path.stat().st_size,
        "sha256": sha256_file(tar_path),
        "index_sha256": sha256_file(index_path),
        "pixels": pixels.tolist(),
        "rejected": rejected,
    }
    write_json(task.record_path, record)
    return record


def _pack_and_upload(task: PackTask, target: Storage) -> Record:
    """Pack to local scratch, then upload tar, index and record, in this order."""
    with scratch_folder() as folder:
        record = pack_shard(replace(task, out=folder, target=None))
        target.publish(folder, f"{task.name}.tar", f"{task.name}.index.npz", f"parts/{task.name}.json")
    return record


def finished(task: PackTask) -> Record | None:
    """The record of a shard that is done, or None. Raises StaleInputError when it is another shard's."""
    storage, name = task.storage, f"parts/{task.name}.json"
    if storage.size(name) is None:
        return None
    record: Record = storage.read_json(name, "shard record", "Build again with --overwrite.")
    remedy = "Build it anew with --overwrite, or choose another --out."
    check_fingerprint(record["fingerprint"], task.fingerprint, f"shard {task.name} in {storage.root}", remedy)
    whole = storage.size(f"{task.name}.tar") == record["bytes"] and storage.size(f"{task.name}.index.npz") is not None
    return record if whole and not (record["rejected"] and task.options.on_error == "fail") else None


_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Append a member without time or owner; return offset and size of its data.

    The bytes are those of `tar.addfile`, which takes as long as encoding a small JPEG.
    """
    header = bytearray(_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:136] = b"%011o\0" % len(data)
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    assert tar.fileobj is not None and len(name) <= tarfile.LENGTH_NAME
    tar.fileobj.write(bytes(header) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.offset = offset + len(data) + -len(data) % tarfile.BLOCKSIZE
    return offset, len(data)


def finish_build(plan: BuildPlan, records: Iterable[Record]) -> Manifest:
    """Add the records up, whatever their order, and write `manifest.json` and `rejected.jsonl`.

    Shards without a sample are left out. Raises UserError for a split without any.
    """
    by_name = {record["name"]: record for record in records}
    parts: dict[str, list[Record]] = {}
    for task in plan.tasks:
        parts.setdefault(task.split, []).append(by_name[task.name])
    pixels = {split: np.array([p["pixels"] for p in mine]).sum(axis=0) for split, mine in parts.items()}
    card = plan.card
    if card.classes is None:
        seen = np.flatnonzero(np.sum([*pixels.values()], axis=0)[:IGNORED])
        if seen.size:
            card = card.with_classes([f"class_{i}" for i in range(int(seen[-1]) + 1)], "the labels")
    splits = [_split(name, mine, pixels[name], card.num_classes or 0) for name, mine in parts.items()]
    manifest = Manifest(tool=f"stego-dist {__version__}", card=card, options=asdict(plan.options), splits=splits)
    manifest = manifest.model_copy(update={"checksum": manifest.content_digest()})
    rejected = [{"split": split, **entry} for split, mine in parts.items() for p in mine for entry in p["rejected"]]
    with atomic_path(plan.out / "rejected.jsonl") as tmp:
        tmp.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected), "utf-8")
    if rejected:
        listed = plan.tasks[0].storage.where("rejected.jsonl")
        console.warn(f"{len(rejected)} images were left out; {listed} says which and why")
    for left in (*plan.out.glob(".*.tmp"), *plan.out.glob("parts/.*.tmp")):
        if left.name.split(".")[1] in by_name:  # of a builder that was killed
            left.unlink()
    write_json(plan.out / "manifest.json", manifest.model_dump(mode="json"))
    return manifest


def _split(name: str, records: list[Record], pixels: NDArray[np.int64], num_classes: int) -> Split:
    rejected = [entry for record in records for entry in record["rejected"]]
    if not any(record["samples"] for record in records):
        first = f"; the first: {rejected[0]['cause']}" if rejected else ""
        raise UserError(f"split {name} has no samples: all {len(rejected)} images were rejected{first}")
    return Split(
        name=name,
        labelled=records[0]["labelled"],
        num_images=sum(record["images"] for record in records),
        rejected=len(rejected),
        class_pixels=pixels[:num_classes].tolist(),
        ignored_pixels=int(pixels[IGNORED]),
        shards=[Shard(**{k: r[k] for k in Shard.model_fields}) for r in records if r["samples"]],
    )


def serial(fn: Callable[[PackTask], Record], tasks: Sequence[PackTask]) -> Iterator[Record]:
    """The runner that packs one shard after the other, here."""
    return map(fn, tasks)


def build(
    card: Card,
    source: Path,
    out: Path | str,
    options: BuildOptions,
    splits: Sequence[str] | None = None,
    runner: Runner = serial,
    overwrite: bool = False,
    lists: Path | None = None,
) -> ShardSet:
    """Build a shard set: plan, let `runner` pack the shards, finish. Started again, it goes on where it was.

    `out`: a folder, or s3://bucket/prefix. `overwrite` removes what an earlier build left there, once the new plan
    stands. Raises what its three steps raise, and UserError when `out` holds splits that are not asked for.
    """
    storage = open_storage(out)
    with storage.staging() as folder:
        plan = plan_build(card, source, folder, options, splits, lists)
        if not isinstance(storage, LocalStorage):
            plan = replace(plan, tasks=tuple(replace(task, target=storage) for task in plan.tasks))
        if overwrite:
            with writing_to(folder, REMEDY):
                remove_shards(storage)
        elif storage.size("manifest.json") is not None:
            asked = {task.split for task in plan.tasks}
            if left := [split for split in ShardSet.open(storage).splits if split not in asked]:
                raise UserError(
                    f"{out} also holds split {', '.join(left)}, which its manifest would lose. Name all splits "
                    "(finished shards are kept), choose another --out, or --overwrite."
                )
        records = _packed(plan, runner)
        with writing_to(folder, REMEDY):
            manifest = finish_build(plan, records)
            storage.publish(folder, "rejected.jsonl", "manifest.json")
    return ShardSet(storage, manifest)


def _packed(plan: BuildPlan, runner: Runner) -> list[Record]:
    """The records of all shards: those that are there, and those that `runner` packs now."""
    with ThreadPoolExecutor(plan.tasks[0].storage.parallel) as pool:  # of a bucket each answer takes its time
        records = [record for record in pool.map(finished, plan.tasks) if record is not None]
    names = {record["name"] for record in records}
    todo = [task for task in plan.tasks if task.name not in names]
    done = sum(len(task.sources) for task in plan.tasks if task.name in names)
    if records:
        console.say(f"{len(records)} of {len(plan.tasks)} shards are there already")
    with console.progress("packing", plan.num_images, done=done) as bar:
        for record in runner(pack_shard, todo) if todo else ():
            records.append(record)
            images = record["images"] + len(record["rejected"])
            bar.advance(images, shards=f"{len(records)}/{len(plan.tasks)}")
    return records


def remove_shards(storage: Storage) -> None:
    """Delete what an earlier build recorded, the manifest first; other files stay."""
    for name in ("manifest.json", "rejected.jsonl"):
        storage.remove(name)
    for record in storage.list("parts"):
        if record.endswith(".json"):
            shard = record.removeprefix("parts/").removesuffix(".json")
            for name in (f"{shard}.tar", f"{shard}.index.npz", record):
                storage.remove(name)
