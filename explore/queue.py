"""The queue: inputs in the order to label, with a role, a reason and, if there is one, a suggested label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.tasks.splits import hash_text
from explore.choose import MEASURED_FRACTION, choose_inputs, measuring_ranks, merge_rounds
from explore.config import Explore
from explore.inputs import Inputs
from explore.labels import Suspect

MIN_LENGTH_TO_RESERVE = 12  # unlabeled inputs below which none is reserved for measuring


class Entry(NamedTuple):
    """An input in the queue."""

    index: int
    role: str
    reason: str
    """suspect, uncertain, spread or random."""


class Unlabeled(NamedTuple):
    """The unlabeled inputs, the first of each text: int64 indices."""

    chosen: np.ndarray
    """To choose from, ascending."""
    measure: np.ndarray
    """Reserved for measuring, in a random order."""
    is_reserved: np.ndarray
    """Whether each input, labeled or not, equals one that is reserved, bool (inputs,)."""


def split_unlabeled(inputs: Inputs, seed: int) -> Unlabeled:
    """Return the unlabeled inputs, without those equal to a labeled one."""
    keys = [hash_text((key,)) for key in inputs.keys]
    seen = {key for key, label in zip(keys, inputs.labels, strict=True) if label}
    found = []
    for index, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            found.append(index)
    unlabeled = np.array(found, np.int64)
    ranks = measuring_ranks([keys[index] for index in found], seed)
    is_reserved = (ranks < MEASURED_FRACTION) & (len(unlabeled) >= MIN_LENGTH_TO_RESERVE)
    order = np.argsort(ranks[is_reserved], kind="stable")
    reserved_keys = {keys[index] for index in unlabeled[is_reserved]}
    is_equal = np.array([key in reserved_keys for key in keys], bool)
    return Unlabeled(unlabeled[~is_reserved], unlabeled[is_reserved][order], is_equal)


def build_queue(
    inputs: Inputs,
    unlabeled: Unlabeled,
    vectors: np.ndarray,
    encoded: np.ndarray,
    probabilities: np.ndarray | None,
    suspects: list[Suspect],
    config: Explore,
) -> list[Entry]:
    """Return the inputs to label, in order: suspects again, then three to train on for each random one to measure by.

    encoded: indices of the inputs that have `vectors`, unit, float32 (encoded, width), ascending; to train on, only
    these are chosen. probabilities: by a model, (encoded, classes), if there is one.
    """
    allowed = np.searchsorted(encoded, np.intersect1d(unlabeled.chosen, encoded))
    labels = np.array(inputs.labels, object)[encoded]
    roles = np.array(inputs.roles, object)[encoded]
    # Nothing is learned of the others, and of copies no more than of the first.
    labeled = np.flatnonzero(np.isin(encoded, inputs.find_labeled()) & (roles != "measure"))
    room = max(0, config.queue_size - len(suspects))
    count = min(len(allowed), room - min(len(unlabeled.measure), round(MEASURED_FRACTION * room)))
    choice = choose_inputs(vectors, allowed, labeled, labels[labeled], probabilities, count, config.seed)
    order, is_measured = merge_rounds(encoded[choice.indices], unlabeled.measure[: room - len(choice.indices)])
    uncertain = set(encoded[choice.indices[choice.is_uncertain]].tolist())
    entries = [Entry(suspect.index, inputs.roles[suspect.index], "suspect") for suspect in suspects]
    for index, measures in zip(order.tolist(), is_measured, strict=True):
        reason = "uncertain" if index in uncertain else "spread"
        entries.append(Entry(index, "measure", "random") if measures else Entry(index, "train", reason))
    return entries
