"""The neighbour table for people: its statistics as tables and JSON, and a sheet of crops with their neighbours.

In: the table and the feature store of a configuration; for the picture also its shard set. Out: `show.json` and
`neighbours.png`, beside the table or where the caller says. Without the shard set the numbers are still given.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import REMEDY, fingerprint_over, make_backbone, open_store, open_table
from stego_dist.errors import UserError
from stego_dist.knn.statistics import QUANTILES, TableReader, TableStatistics, crops_to_show
from stego_dist.knn.table import KnnTable, knn_dir
from stego_dist.report.tables import percent
from stego_dist.rundir import atomic_path, read_json, write_json, writing_to

FORMAT = "stego_dist.knn_show/1"
ROWS = 65536
"""Rows of the table that are read at once."""
DRAWN, NEIGHBOURS = 6, 7
"""Crops of the picture beside the outstanding ones, and neighbours of each."""
SIDE, GAP, LINE, FRAME = 112, 8, 16, 4
SAME_IMAGE = (214, 39, 40)


def show_table(config: Config, out: Path | None = None) -> dict[str, Any]:
    """Write and return the statistics of the configuration's table, with the picture's path or why there is none.

    Raises UserError: no table or store; StaleInputError naming the fields in which their inputs differ.
    """
    shard_set, missing = _shard_set(config)
    table, sources = _open(config, shard_set)
    manifest = read_json(table.root / "manifest.json", "the KNN table", REMEDY)
    reader = TableReader(sources=sources, k=config.knn.k, positives=config.knn.positives, seed=config.seed)
    with console.progress("reading the table", len(table), "crops") as bar:
        for first, ids, similarities in table.blocks(ROWS):
            reader.add(first, ids, similarities)
            bar.advance(len(ids))
    statistics = reader.result()
    folder = out or knn_dir(config)
    picture = folder / "neighbours.png"
    with writing_to(folder, "Another one is named with --out."):
        try:
            if shard_set is None:
                raise UserError(missing)
            sheet = _sheet(config, statistics, table, ShardSamples(shard_set, config.data.train_split))
            with atomic_path(picture) as tmp:
                sheet.save(tmp, format="PNG", optimize=True)
        except UserError as error:
            missing = str(error)
            picture.unlink(missing_ok=True)  # of another table
            console.warn(f"the picture is left out, its images can't be read: {missing}")
        shown: dict[str, Any] = {
            "format": FORMAT,
            "table": str(table.root),
            "method": manifest["method"],
            "recall": manifest.get("recall"),
            "quantiles": list(QUANTILES),
            **asdict(statistics),
            "picture": str(picture) if not missing else None,
            "picture_missing": missing or None,
        }
        shown["similarity"] = {str(rank): values for rank, values in statistics.similarity.items()}
        write_json(folder / "show.json", shown)
    return shown


def _shard_set(config: Config) -> tuple[ShardSet | None, str]:
    """The shard set, or None and why it can't be read."""
    try:
        return ShardSet.open(config.data.shards, config.data.storage), ""
    except UserError as error:
        return None, str(error)


def _open(config: Config, shard_set: ShardSet | None) -> tuple[KnnTable, np.ndarray[Any, np.dtype[np.int64]]]:
    """The table and each crop's source image. Without the shard set its fingerprint is taken from the store."""
    if shard_set is not None:
        shards = shard_set.split(config.data.train_split).fingerprint
    else:
        stored = read_json(Path(config.features.dir) / "manifest.json", "the feature store", REMEDY)
        shards = stored["fingerprint"]["shards"]
    fingerprint = fingerprint_over(config, shards, make_backbone(config))
    return open_table(config, fingerprint), open_store(config, fingerprint).sources


def print_statistics(shown: dict[str, Any]) -> None:
    """The tables on stdout and where the files lie."""
    recall = (f"{name} {value:.4g}" for name, value in (shown["recall"] or {}).items())
    console.out.print(_similarity_table(shown, ", ".join([shown["method"], *recall])))
    console.out.print(_hub_table(shown))
    of = "all" if shown["sampled"] == shown["crops"] else f"{shown['sampled']:,} drawn"
    same = percent(shown["same_image"])
    console.out.print(
        f"Of all neighbours {same} % come from the crop's own image; quantiles are of {of} crops.", soft_wrap=True
    )
    if shown["padded"]:
        console.out.print(f"{100 * shown['padded']:.3g} % of the entries are empty: there were no more neighbours.")
    if shown["picture"]:
        console.out.print(f"picture {shown['picture']}", soft_wrap=True)


def _similarity_table(shown: dict[str, Any], how: str) -> Table:
    table = Table(title=f"{shown['crops']:,} crops, k {shown['k']} ({how}): cosine by rank")
    table.add_column("rank", justify="right")
    for quantile in shown["quantiles"]:
        table.add_column(f"{100 * quantile:g} %", justify="right")
    table.add_column("same image, %", justify="right")
    for rank, values in shown["similarity"].items():
        cells = ["–" if values is None else f"{value:.3f}" for value in values or shown["quantiles"]]
        table.add_row(rank, *cells, percent(shown["same_image_by_rank"][int(rank) - 1]))
    return table


def _hub_table(shown: dict[str, Any]) -> Table:
    both = [shown["hubness"], shown["hubness_of_positives"]]
    table = Table(title="Hubs: how often a crop occurs as a neighbour")
    table.add_column("")
    for hubs, note in zip(both, ("all", "trained on")):
        table.add_column(f"ranks 1–{hubs['ranks']} ({note})", justify="right")
    table.add_row("times the most frequent occurs", *(f"{hubs['largest']:,}" for hubs in both))
    table.add_row("that is crop", *(str(hubs["hub"]) for hubs in both))
    table.add_row("crops that have it, %", *(f"{100 * hubs['hub_share']:.3g}" for hubs in both))
    table.add_row("skewness", *(f"{hubs['skewness']:.2f}" for hubs in both))
    table.add_row("crops that nobody has, %", *(percent(hubs["anti_hubs"]) for hubs in both))
    return table


def _sheet(config: Config, statistics: TableStatistics, table: KnnTable, samples: ShardSamples) -> Image.Image:
    """Rows of crops with their neighbours, the cosine under each; crops of the row's own image have a frame."""
    rows = crops_to_show(statistics, drawn=DRAWN, seed=config.seed)
    crops = np.array([crop for _, crop in rows])
    count = min(NEIGHBOURS, statistics.k - 1) + 1
    ids, similarities = table.rows(crops)[:, :count], table.similarities(crops)[:, :count]
    wanted = np.unique(ids[ids >= 0]).tolist()
    views = dict(zip(wanted, samples.views(wanted, SIDE, config.data.image_resize)))
    font, step = ImageFont.load_default(12), SIDE + 2 * FRAME + GAP
    high = 2 * LINE + SIDE + 2 * FRAME + GAP
    sheet = Image.new("RGB", (count * step, LINE + GAP + len(rows) * high), "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((1, 3, 11, 13), outline=SAME_IMAGE, width=2)
    draw.text((16, 1), "a crop of the same source image", fill="black", font=font)
    for r, (why, crop) in enumerate(rows):
        y = LINE + GAP + r * high
        draw.text((0, y), f"{why}: crop {crop}, {samples.name(crop)}", fill="black", font=font)
        for c, (i, similarity) in enumerate(zip(ids[r].tolist(), similarities[r].tolist())):
            if i < 0:
                continue
            x, top = c * step, y + LINE
            if c and samples.source[i] == samples.source[crop]:
                draw.rectangle((x, top, x + SIDE + 2 * FRAME - 1, top + SIDE + 2 * FRAME - 1), fill=SAME_IMAGE)
            picture = views[i][0].permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(picture), (x + FRAME, top + FRAME))
            text = "itself" if c == 0 else f"{similarity:.3f}"
            draw.text((x + FRAME, top + SIDE + 2 * FRAME), text, fill="black", font=font)
    return sheet
