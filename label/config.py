"""Configuration of labeling. `python -m label --help` lists every key with its meaning."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from data.sources.source import Source
from engine.config.schema import Fraction, Section

Tool = Literal["label-studio", "doccano", "argilla"]


class Label(Section):
    """Label texts or images by keys, in the browser or the terminal."""

    task: str | None = None
    """Task to label: a YAML file, or the name of one in configs/finetune; none: `source` alone."""
    source: Source | None = None
    """Texts to label, instead of the task's `unlabeled`, in the order of the queue if it is of the same files; `file=X`
    is short for source.files=X."""
    num_answers: PositiveInt | None = 64
    """Answers after which the command ends; none: all there are."""
    labels: str | None = None
    """CSV to which answers are appended; none: that of task.train, or labels/NAME.csv with the name of the task."""
    queue: str | None = None
    """Rows in the order to label, as make explore writes them, or a selection of its map; none:
    out/explore/NAME/queue.csv, if it is there."""
    measure_fraction: Fraction = 0.25
    """Fraction of the rows that are drawn as test rows, where there is no queue; the order is then random."""
    suggest: bool = True
    """Whether to show the suggestions of the queue, which bias a person; never on test rows."""
    terminal: bool = False
    """Whether to label in the terminal instead of the browser, as over ssh."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the page on 127.0.0.1; 0: a free one."""
    export: Tool | None = None
    """Write the queue for this annotation tool instead of labeling; task.train reads what the tool exports."""
    output: str | None = None
    """File of `export`; none: out/label/NAME-TOOL.json or .jsonl."""
    seed: NonNegativeInt = 0
    """Random seed of the order, where there is no queue."""

    help_first: ClassVar[tuple[str, ...]] = ("task", "source", "num_answers", "labels", "terminal", "export")
