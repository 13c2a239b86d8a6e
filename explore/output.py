"""The files of a map: map.parquet, clusters.csv, queue.csv, report.json and README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.arrays import to_int64_array, to_string_array
from data.csv_cells import csv_lines
from data.tasks.answers import QUEUE_COLUMNS
from engine.files import atomic_path, write_json, write_text
from engine.html import render
from explore.baselines import tabulate
from explore.map import Map
from explore.modalities import Modality
from explore.page import render_page

MAX_TYPICAL_CHARS = 300


def write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    """Write a table that no spreadsheet runs anything of."""
    write_text(path, csv_lines([header, *rows], raw=False))


def write_queue(path: Path, found: Map, column: str, paths: dict[int, str]) -> None:
    """Write the inputs to label, in order. Its columns are `id`, that of the input, and QUEUE_COLUMNS.

    paths: of inputs that were written as files. Only suspects have a label.
    """
    rows = []
    for entry in found.queue:
        suggestion, probability = found.suggestions.get(entry.index, ("", None))
        rounded = None if probability is None else round(probability, 4)
        cluster = int(found.clusters[entry.index])
        text = paths.get(entry.index, found.inputs.texts[entry.index])
        label = found.inputs.labels[entry.index]
        rows.append([entry.index, text, label, entry.role, entry.reason, cluster, suggestion, rounded])
    write_csv(path, ["id", column, *QUEUE_COLUMNS], rows)


def write_clusters(path: Path, found: Map) -> None:
    """Write the clusters in the order of the tree."""
    sizes = np.bincount(found.clusters[found.clusters >= 0], minlength=len(found.cluster_names))
    rows = []
    for cluster, name in enumerate(found.cluster_names):
        typical = [found.inputs.texts[index][:MAX_TYPICAL_CHARS] for index in found.typical[cluster]]
        group = int(found.groups[cluster])
        measures = [found.measures[key][cluster] for key in ("cluster_stability", "silhouette")]
        measures = ["" if np.isnan(value) else round(float(value), 3) for value in measures]
        rows.append([cluster, name, int(sizes[cluster]), group, found.group_names[group], *measures, *typical])
    header = ["cluster", "name", "size", "group", "group_name", "stability", "silhouette"]
    write_csv(path, [*header, "typical_1", "typical_2", "typical_3"], rows)


def write_map(path: Path, found: Map, column: str, paths: dict[int, str]) -> None:
    """Write a row for each input, with columns that embedding-atlas reads too (projection_x/y, neighbors)."""
    import pyarrow
    import pyarrow.parquet

    inputs, count = found.inputs, len(found.inputs.texts)
    texts = [paths.get(index, text).encode("utf-8", "replace").decode() for index, text in enumerate(inputs.texts)]
    ids, distances = found.search["neighbors"], found.search["neighbor_distances"]
    starts = np.concatenate([[0], np.cumsum((ids >= 0).sum(1))]).astype(np.int32)
    lists = [pyarrow.ListArray.from_arrays(starts, values[ids >= 0]) for values in (ids, distances)]
    suggestions = [found.suggestions.get(index, ("", None)) for index in range(count)]
    columns = {
        "id": to_int64_array(np.arange(count)),
        column: to_string_array(texts),
        "projection_x": pyarrow.array(found.positions[:, 0]),
        "projection_y": pyarrow.array(found.positions[:, 1]),
        "cluster": pyarrow.array(found.clusters),
        "group": pyarrow.array(np.where(found.clusters >= 0, found.groups[found.clusters], -1).astype(np.int32)),
        "typicality": pyarrow.array(found.typicality),
        "membership": pyarrow.array(found.mixture["membership"]),
        "other_cluster": pyarrow.array(found.mixture["other"]),
        "oddness": pyarrow.array(found.oddness),
        "duplicate_of": to_int64_array(found.search["duplicate_of"]),
        "neighbors": pyarrow.StructArray.from_arrays(lists, ["ids", "distances"]),
        "label": to_string_array(inputs.labels),
        "role": to_string_array(inputs.roles),
        "reserved": pyarrow.array(found.is_reserved),
        "suggestion": to_string_array([label for label, _ in suggestions]),
        "suggestion_probability": pyarrow.array([value for _, value in suggestions], pyarrow.float64()),
    }
    with atomic_path(path) as temp:
        pyarrow.parquet.write_table(pyarrow.table(columns), temp, compression="zstd")


def write_outputs(folder: Path, found: Map, modality: Modality, vectors: np.ndarray | None) -> None:
    """Write all files; the report is the last. vectors: of all inputs, by the encoder, if it has read them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = modality.save_files([entry.index for entry in found.queue], folder / "images")
    write_map(folder / "map.parquet", found, modality.column, paths)
    write_clusters(folder / "clusters.csv", found)
    write_queue(folder / "queue.csv", found, modality.column, paths)
    if vectors is not None:
        with atomic_path(folder / "vectors.npy") as temp, open(temp, "wb") as file:
            np.save(file, vectors)
    else:
        (folder / "vectors.npy").unlink(missing_ok=True)
    write_text(folder / "map.html", render_page(found, modality))
    write_text(
        folder / "README.md",
        render("explore/readme.md.j2", found=found, report=found.report, baselines=tabulate(found.baselines)),
    )
    write_json(folder / "report.json", found.report)
