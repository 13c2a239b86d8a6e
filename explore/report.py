"""The numbers of a map, and what they mean in sentences."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import numpy as np

from data.cache import OUTPUT_DIR
from data.shortcut import name_run
from explore.config import TASK_FOLDER, Explore
from explore.labels import describe_measured
from explore.map import Map
from explore.modalities import Modality


def make_report(found: Map, config: Explore, classes: list[str], modality: Modality) -> dict:
    """Return the contents of report.json."""
    counts = Counter(entry.reason for entry in found.queue)
    sizes = np.bincount(found.clusters[found.clusters >= 0], minlength=len(found.groups))
    group_rows = [
        [name, int((found.groups == group).sum()), int(sizes[found.groups == group].sum())]
        for group, name in enumerate(found.group_names)
    ]
    duplicates = found.list_duplicates()
    report = {
        "name": found.name,
        "key": found.inputs.fingerprint(),
        "inputs": len(found.inputs.texts),
        "labeled": len(found.inputs.find_labeled()),
        "classes": classes,
        "noun": modality.shared.inputs_noun,
        "vectors": "static" if modality.is_static else "encoder",
        "clusters": len(found.groups),
        "without_cluster": int((found.clusters < 0).sum()),
        "stability": mean_known(found.measures["stability"]),
        "group_stability": mean_known(found.measures["group_stability"]),
        "silhouette": mean_known(found.measures["silhouette"], sizes),
        "mixture_bic": round(float(found.mixture["bic"][0]), 1),
        "duplicate_groups": len(duplicates),
        "duplicates": sum(map(len, duplicates)),
        "queue": dict(sorted(counts.items())),
        "suggested_by": found.suggested_by,
        "measured": found.measured._asdict() if found.measured else None,
        "baselines": [each.to_json() for each in found.baselines],
        "groups": group_rows,
        "config": config.model_dump(mode="json"),
        "next": next_command(found.name, config),
    }
    return report | {"sentence": describe(report), "notes": list_notes(report, found)}


def mean_known(values: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Return the mean of a measure without what is not known; None if nothing is, as the silhouette of one cluster.

    weights: such as the sizes of clusters, for the mean over their inputs.
    """
    is_known = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    return round(float(np.average(values[is_known], weights=weights[is_known])), 4) if is_known.any() else None


def next_command(name: str, config: Explore) -> str:
    """Return the command that labels the queue, empty for images without a task."""
    task = Path(config.task) if config.task else None
    if task and (task.name != "config.yaml" or config.modality != "text"):
        return f"make label TASK={task.stem if task.parent == TASK_FOLDER else task}"
    if config.modality != "text":
        return ""
    files = config.source.files if config.source else None
    if isinstance(files, str) and name_run(files) == name and not getattr(config, "sentences", False):
        return f"make label FILE={shlex.quote(files)}"
    return f'make label ARGS="queue={OUTPUT_DIR / "explore" / name / "queue.csv"}"'


def count_noun(number: int, noun: str) -> str:
    """Return a number with its noun, `1 cluster` or `2 clusters`."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def describe(report: dict) -> str:
    """Return the sentence at the head of the page."""
    clusters, groups = report["clusters"], count_noun(len(report["groups"]), "group")
    forms = f"which form{'s' if clusters == 1 else ''} {groups}"
    found = f"{report['inputs']:,} {report['noun']} in {count_noun(clusters, 'cluster')}, {forms}"
    labeled = f"{report['labeled']:,}" if report["labeled"] else "none"
    return f"{found}; {labeled} {'has' if report['labeled'] == 1 else 'have'} a label"


def list_notes(report: dict, found: Map) -> list[str]:
    """Return what is known about the map, in sentences."""
    measures = []
    if report["stability"] is not None:
        measures.append(
            "Cluster stability (adjusted Rand index between two seeds; 1 = identical): clusters"
            f" {report['stability']:.2f}, groups {report['group_stability']:.2f}."
        )
    if report["silhouette"] is not None:
        measures.append(f"Silhouette {report['silhouette']:.2f}.")
    notes = [" ".join(measures)] if measures else []
    if report["vectors"] == "static":
        notes.append("The map is of static vectors distilled from the encoder; the queue is of the encoder's own.")
    if report["without_cluster"]:
        notes.append(f"{report['without_cluster'] / report['inputs']:.0%} of the {report['noun']} are in no cluster.")
    if report["duplicates"]:
        groups = count_noun(report["duplicate_groups"], "group")
        notes.append(f"{report['duplicates']:,} {report['noun']} are in {groups} of near duplicates.")
    if found.measured:
        notes.append(f"{describe_measured(found.measured)}.")
    if found.suspects:
        labels = count_noun(len(found.suspects), "label")
        verbs = ("looks", "it comes") if len(found.suspects) == 1 else ("look", "they come")
        notes.append(f"{labels} {verbs[0]} wrong; {verbs[1]} first in the queue; no label was changed.")
    return notes
