"""The page of a map: one file that opens without a server and makes no request."""

from __future__ import annotations

import base64

import numpy as np

from engine.html import one_line, render, shorten
from explore.baselines import tabulate
from explore.map import Map
from explore.modalities import Modality
from explore.pictures import CELL_SIDE, Sheets, make_sheets, to_url

MAX_SHOWN_TEXTS = 20_000  # texts on the map
MAX_PICTURES = 3_000  # images on the map
MAX_PAGE_CHARS = 12_000_000
MAX_TEXT_CHARS = 160
MAX_QUEUED, MAX_ODD, MAX_DUPLICATES, MAX_SUSPECTS = 64, 20, 20, 50
MAX_GROUP_TEXTS = 3
MAX_POINTS = 1_000_000
GRID = 32_767  # positions are 16-bit numbers


def show_line(text: str) -> str:
    """Return a text as one line of at most MAX_TEXT_CHARS."""
    return shorten(one_line(text), MAX_TEXT_CHARS)


def encode(values: np.ndarray) -> str:
    """Return an array as base64 of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode()


class PageCells:
    """The cells of the tables: a text, or an image and where it is."""

    def __init__(self, found: Map, modality: Modality):
        self.texts, self.draw = found.inputs.texts, modality.draw
        self.has_pictures = modality.draw(0, CELL_SIDE) is not None

    def show(self, indices: np.ndarray | list[int], title: str = "") -> list | dict:
        """Return the cell of some inputs below a title, if there is one."""
        titles = [title] if title else []
        if not self.has_pictures:
            return [*titles, *(show_line(self.texts[index]) for index in indices)]
        lines = titles or [show_line(self.texts[index]) for index in indices]
        return {"images": [to_url(self.draw(int(index), CELL_SIDE)) for index in indices], "lines": lines}


def list_shown(found: Map, limit: int) -> np.ndarray:
    """Return the inputs that the map shows one by one: those of the tables, then a part of every region, ascending."""
    first = [entry.index for entry in found.queue[:MAX_QUEUED]] + found.list_odd(MAX_ODD)
    first += [int(index) for group in found.typical for index in group]
    count = len(found.inputs.texts)
    if count <= limit:
        return np.arange(min(count, MAX_POINTS))
    order = np.argsort(found.clusters, kind="stable")  # evenly from each cluster
    spread = order[np.linspace(0, count - 1, max(1, limit - len(first))).astype(int)]
    shown = np.unique(np.concatenate([first, spread]))
    return shown[shown < MAX_POINTS]  # the others have no position on the page


def point_data(found: Map, shown: np.ndarray) -> dict[str, object]:
    """Return what the script of the page reads: base64 arrays, and texts as lines."""
    count = len(found.clusters)
    kind = np.zeros(count, np.uint8)  # of the mark: 0 none, 1 to label first, 2 labeled
    kind[[entry.index for entry in found.queue[:MAX_QUEUED]]] = 1
    kind[np.flatnonzero([bool(label) for label in found.inputs.labels])] = 2
    order = np.arange(min(count, MAX_POINTS))
    centers = [np.median(found.positions[found.clusters == cluster], 0) for cluster in range(len(found.groups))]
    group_of = np.where(found.clusters >= 0, found.groups[found.clusters], -1)
    group_centers = [np.median(found.positions[group_of == group], 0) for group in range(len(found.group_names))]
    return {
        "positions": encode(np.round(found.positions[order] * GRID).astype(np.int16)),
        "clusters": encode(np.where(found.clusters >= 0, found.clusters, 65_535)[order].astype(np.uint16)),
        "kinds": encode(kind[order]),
        "shown": encode(shown.astype(np.uint32)),
        "texts": "\n".join(show_line(found.inputs.texts[index]) for index in shown),
        "groups": encode(found.groups.astype(np.uint16)),
        "centers": encode(np.array([*group_centers, *centers], np.float32)),
        "names": "\n".join(one_line(name) for name in [*found.group_names, *found.cluster_names]),
    }


def cluster_table(found: Map, cells: PageCells, noun: str) -> tuple[list[str], list[list]]:
    """Return (header, rows) of the clusters, in the order of the tree; the first of a group has its name."""
    sizes = np.bincount(found.clusters[found.clusters >= 0], minlength=len(found.groups))
    rows = []
    for cluster, name in enumerate(found.cluster_names):
        stability = float(found.measures["cluster_stability"][cluster])
        shown = cells.show(found.typical[cluster], name)
        rows.append([f"{cluster}", shown, f"{sizes[cluster]:,}", "" if np.isnan(stability) else f"{stability:.2f}"])
    return ["cluster", f"name and typical {noun}", noun, "stability"], rows


def queue_table(found: Map, cells: PageCells, column: str) -> tuple[list[str], list[list]]:
    """Return (header, rows) of the first inputs to label."""
    rows = []
    for entry in found.queue[:MAX_QUEUED]:
        label, probability = found.suggestions.get(entry.index, ("", None))
        suggestion = f"{label} {probability:.2f}" if probability is not None else ""
        rows.append([f"{entry.index}", entry.role, entry.reason, suggestion, cells.show([entry.index])])
    header = ["id", "role", "reason", "suggestion", column]
    if not any(row[3] for row in rows):  # nothing suggests before there are labels
        return [*header[:3], column], [[*row[:3], row[4]] for row in rows]
    return header, rows


def suspect_table(found: Map, cells: PageCells, column: str) -> tuple[list[str], list[list]]:
    """Return (header, rows) of the labels that look wrong."""
    rows = [
        [
            f"{each.index}",
            f"{found.inputs.labels[each.index]} {each.confidence:.2f}",
            "{} {:.2f}".format(*found.suggestions.get(each.index, ("", each.suggestion_probability))),
            cells.show([each.index]),
        ]
        for each in found.suspects[:MAX_SUSPECTS]
    ]
    return ["id", "label", "likelier", column], rows


def render_page(found: Map, modality: Modality) -> str:
    """Return the page."""
    duplicates, column, noun = found.list_duplicates(), modality.column, modality.shared.inputs_noun
    cells = PageCells(found, modality)
    odd = [[f"{index}", f"{found.oddness[index]:.3f}", cells.show([index])] for index in found.list_odd(MAX_ODD)]
    groups = [
        [f"{group[0]}", f"{len(group):,}", cells.show(group[:MAX_GROUP_TEXTS])] for group in duplicates[:MAX_DUPLICATES]
    ]
    shown = list_shown(found, MAX_PICTURES if cells.has_pictures else MAX_SHOWN_TEXTS)
    content = {
        "title": f"Map of {found.name}",
        "sentence": found.report["sentence"],
        "notes": found.report["notes"],
        "noun": noun,
        "one": modality.shared.input_noun,
        "next": found.report["next"],
        "map_key": f"{found.name}:{found.report['key']}",
        "data": point_data(found, shown),
        "clusters": cluster_table(found, cells, noun),
        "queue": queue_table(found, cells, column),
        "odd": (["id", "oddness", column], odd),
        "duplicates": (["first id", noun, "some of them"], groups),
        "suspects": suspect_table(found, cells, column),
        "baselines": tabulate(found.baselines),
    }
    page = render("explore/page.html.j2", **content, sheets=Sheets(0, []))
    if not cells.has_pictures:
        return page
    sheets = make_sheets(modality.draw, shown, MAX_PAGE_CHARS - len(page))
    return render("explore/page.html.j2", **content, sheets=sheets)
