"""All that was found about the inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from explore.baselines import MapQuality
from explore.inputs import Inputs
from explore.labels import Measured, Suspect
from explore.queue import Entry


@dataclass
class Map:
    """What was found. Arrays have a row for each input unless they are of clusters."""

    name: str
    inputs: Inputs
    clusters: np.ndarray
    groups: np.ndarray
    """Group of each cluster, int32 (clusters,)."""
    cluster_names: list[str]
    group_names: list[str]
    typical: list[np.ndarray]
    """The most typical inputs of each cluster."""
    positions: np.ndarray
    typicality: np.ndarray
    oddness: np.ndarray
    search: dict[str, np.ndarray]
    """As `explore.neighbors.search_cells` returns it."""
    mixture: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    """As `explore.cluster.measure_clusters` returns it."""
    queue: list[Entry]
    suspects: list[Suspect]
    suggestions: dict[int, tuple[str, float]]
    """Label and probability by input."""
    suggested_by: str
    """Where suggestions are from: model, labels, names, or empty."""
    measured: Measured | None
    is_reserved: np.ndarray
    """Whether each input is reserved for measuring."""
    baselines: list[MapQuality]
    """Quality of the map by the encoder's vectors, which are first, and by simpler ones."""
    report: dict = field(default_factory=dict)

    def list_odd(self, count: int) -> list[int]:
        """List the oddest inputs, equal ones once."""
        found: dict[str, int] = {}
        for index in np.argsort(-self.oddness, kind="stable")[: 4 * count]:
            found.setdefault(self.inputs.keys[index], int(index))
        return list(found.values())[:count]

    def list_duplicates(self) -> list[np.ndarray]:
        """List the groups of near duplicates, the largest first."""
        first = self.search["duplicate_of"]
        members = np.flatnonzero(first >= 0)
        order = members[np.argsort(first[members], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(first[order])) + 1) if len(order) else []
        return sorted(groups, key=lambda group: (-len(group), group[0]))
