"""Configuration of predictions. `python -m predict --help` lists every key with its meaning."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from data.images.config import ImageSource
from engine.config.schema import Section

OutputFormat = Literal["csv", "jsonl", "parquet"]
EXTENSIONS: dict[str, OutputFormat] = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


class Predict(Section):
    """Predict the labels of a file, a dataset, a folder of images, or single texts and images."""

    model: str
    """Fine-tuned model: a run's folder or name, a model folder, or the name of a classifier on the Hub."""
    source: ImageSource | None = None
    """Rows to predict; `file=X` is short for source.files=X, also for a folder, a .zip or .tar of images."""
    texts: list[str] = []
    """Single texts, or paths of images, instead; arguments without a key."""
    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Column of the text, or two for a pair, or of the images; none: that of the training rows, or found by name."""
    output: str | None = None
    """File to write; none: labels.csv (or .jsonl, .parquet, as the input) in out/predictions/NAME of the input."""
    format: OutputFormat | None = None
    """Format of the file; none: by its extension, or that of the input."""
    precision: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Precision asked for: rows where the held-out rows of their class do not show it are marked as unsure."""
    why: bool = False
    """Whether to give reasons: the nearest labeled rows, and the words that decided (needs captum) or, in the page, the
    parts of the most doubtful images."""
    raw: bool = False
    """Whether to write the cells of a csv unchanged, also those that a spreadsheet would run as a formula."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Maximum text length in tokens; none: as in training, or 512. Longer texts are truncated."""
    batch_size: PositiveInt = 64
    """Inputs of a batch; all have about the same length."""
    dtype: Literal["native", "float32"] = "native"
    """Precision: native is bf16 where the hardware has it, and float32 for rows where bf16 might change the label."""
    num_doubtful: PositiveInt = 50
    """Rows to list as the most doubtful, to label next."""
    overwrite: bool = False
    """Whether to replace an output file that another command wrote."""

    help_first: ClassVar[tuple[str, ...]] = ("model", "source", "text", "output")
