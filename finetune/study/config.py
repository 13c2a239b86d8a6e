"""Configuration of a study. `python -m finetune.study --help` lists every key."""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from engine.config.schema import Section
from finetune.config import Finetune

Variant = Literal["ours", "plain", "random", "probe", "tfidf", "onehot"]
Shots = NonNegativeInt | Literal["all"]
# The default takes 30 to 40 minutes on two cores, so the most expensive trial, training on all labels, runs only once.
DEFAULT_SHOTS, DEFAULT_SEEDS, DEFAULT_FULL_DATA_SEEDS = (0, 8, 32, 100, "all"), 3, 1
FULL_SHOTS, FULL_SEEDS = (0, 8, 16, 32, 64, 128, 256, "all"), 5


class StudySettings(Section):
    """Variants, label counts and seeds of a study."""

    shots: Annotated[list[Shots], Field(min_length=1)] | None = None
    """Labels per class, for example [8, 32, all]. Default: [0, 8, 32, 100, all], without random weights at all; 0 is
    method=names, where the classes have names."""
    seeds: PositiveInt | None = None
    """Number of label samples, seeded from `seed` upward. Default: 3."""
    full_data_seeds: PositiveInt | None = None
    """Number of training seeds when all labels are used. Default: 1, or `seeds` if `shots` is set."""
    full: bool = False
    """Run the full study: 0, 8, 16, 32, 64, 128, 256 and all labels per class with five seeds. Takes hours."""
    variants: Annotated[list[Variant], Field(min_length=1)] = ["ours", "plain", "random", "probe", "tfidf"]
    """ours; plain: the same network without this pretraining; random: random initial weights; probe: logistic
    regression on our frozen embeddings; tfidf: logistic regression on TF-IDF features or, for images, on pixels;
    onehot: on which words a text has."""
    contamination: Literal["drop", "flag"] = "drop"
    """Whether to drop test rows with a text that also occurs in the training rows, or only to count them."""
    corpus_contamination: Literal["drop", "flag"] = "flag"
    """The same for test rows that occur in the encoder's pretraining corpus, which has no labels."""
    max_confusion_size: PositiveInt = 500
    """Largest number of labels for the confusion matrix and mistakes; the largest trial up to it is shown."""
    mistakes: PositiveInt = 10
    """Number of mistakes in the report, most confident first."""

    @field_validator("variants")
    @classmethod
    def require_ours(cls, variants: list[str]) -> list[str]:
        """Return the variants. Raises ValueError without `ours`."""
        if "ours" not in variants:
            raise ValueError("ours is required; the other variants are compared with it")
        return variants

    def list_shots(self) -> list[Shots]:
        """Return the labels per class, fewest first."""
        given = self.shots or (FULL_SHOTS if self.full else DEFAULT_SHOTS)
        return sorted({*given} - {"all"}) + ["all"] * ("all" in given)

    def num_seeds(self, shots: Shots) -> int:
        """Return the number of seeds for this many labels per class."""
        seeds = self.seeds or (FULL_SEEDS if self.full else DEFAULT_SEEDS)
        default = seeds if self.full or self.shots else DEFAULT_FULL_DATA_SEEDS
        return min(seeds, self.full_data_seeds or default) if shots == "all" else seeds


class Study(Finetune):
    """Measure what pretraining is worth in labels."""

    study: StudySettings = StudySettings()
    """Variants, label counts and seeds of the study."""

    @classmethod
    def choose_schema(cls, tree: dict) -> type[Section]:
        """Return the fine-tuning schema of the task's modality, with the settings of a study."""
        return add_study(Finetune.choose_schema(tree)) if cls is Study else cls


@cache
def add_study(schema: type[Finetune]) -> type[Study]:
    """Return the schema with the settings of a study."""
    return type("Study", (schema, Study), {"__doc__": Study.__doc__, "__module__": __name__})
