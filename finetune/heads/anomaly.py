"""Anomaly detection: how far an input is from the rows of the normal class, on the frozen encoder; nothing is trained.

`finetune.detector` fits it, and `data.tasks.detector` has the score.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from data.tasks.problem_types.anomaly_detection import PROBLEM_TYPE as PROBLEM_TYPE
from data.tasks.task import ClassName
from engine.config.schema import Fraction, Section

DEFAULT_HEAD_LR = 1e-3  # not used


class Config(Section):
    """Anomaly detection."""

    name: Literal["anomaly"] = "anomaly"
    """anomaly: how unlike the rows of the normal class an input is, fitted on these rows alone."""
    normal: ClassName | None = None
    """The normal class; none: that of more than half of the training rows. All other classes are anomalous."""
    score: Literal["mahalanobis", "neighbors"] = "mahalanobis"
    """mahalanobis: the distance to the mean of the normal rows (Lee et al. 2018); neighbors: the mean distance to the
    nearest of them. Both are of vectors whitened by the normal rows."""
    neighbors: PositiveInt = 5
    """Number of the nearest normal rows, for score=neighbors."""
    layers: Annotated[list[Fraction], Field(min_length=1)] = [0.5, 1.0]
    """Layers of the hidden states that a vector joins the means of, from 0, the embeddings, to 1, the last layer."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of normal rows that may be called anomalous; the threshold follows from training rows held out by turns."""
