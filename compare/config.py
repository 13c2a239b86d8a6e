"""Configuration of a comparison of objectives. `python -m compare --help` lists every key with its meaning."""

from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from engine.config.schema import FileName, PluginName, Section

DEFAULT_INIT = "default"


class Compare(Section):
    """Compare pretraining objectives at equal compute."""

    corpus: str
    """Unlabeled data: a YAML file, or the name of one in configs/corpus. Other settings in the file are used too."""
    objectives: Annotated[list[PluginName("pretrain.objectives")], Field(min_length=1)]
    """Objectives to train, for example [mlm, contrastive]."""
    tasks: list[str] = []
    """Labeled tasks: YAML files, or names of those in configs/finetune; none given: the one that goes with the
    corpus."""
    budget: PositiveFloat = 300
    """CPU seconds of training for each objective, without those of loading and evaluation."""
    init: str | None = DEFAULT_INIT
    """Encoder that all start from: a built-in name, a folder or a Hub name; none: a new network; default: minilm for
    text, efficientnet-lite0 for images."""
    name: FileName | None = None
    """Name of the folder in out/comparisons; none: that of the corpus."""
    shots: Annotated[list[PositiveInt], Field(min_length=1)] = [8, 32]
    """Labels per class."""
    seeds: PositiveInt = 5
    """Number of label samples, seeded from `seed` upward; a single one has no interval."""
    pretrainings: PositiveInt = 1
    """Number of trainings of each objective, with different seeds, that share the label samples out among them."""
    method: str = "fewshot"
    """Method of fine-tuning, a file of configs/method."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """First random seed of trainings and label samples."""
    pretrain: list[str] = []
    """Further keys of every pretraining, as key=value."""
    finetune: list[str] = []
    """Further keys of every fine-tuning, as key=value."""

    help_first: ClassVar[tuple[str, ...]] = ("corpus", "objectives", "tasks", "budget", "init", "name")

    @field_validator("objectives")
    @classmethod
    def name_each_once(cls, objectives: list[str]) -> list[str]:
        """Return the objectives, each once. Raises ValueError for auto, which is one of the others."""
        if "auto" in objectives:
            raise ValueError("auto chooses one of the others; name those to compare")
        return list(dict.fromkeys(objectives))

    @field_validator("pretrainings")
    @classmethod
    def measure_each(cls, pretrainings: int, info: ValidationInfo) -> int:
        """Return the number of trainings. Raises ValueError for more than samples of labels to measure them on."""
        if pretrainings > (seeds := info.data.get("seeds", pretrainings)):
            raise ValueError(f"{pretrainings} are more than the samples of labels, seeds={seeds}; each needs one")
        return pretrainings
