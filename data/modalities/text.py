"""Text: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.encoders import TOKENIZER_FILES
from data.modalities import Modality
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from engine.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Text(Modality):
    """Texts, read by a tokenizer."""

    name = input_noun = "text"
    inputs_noun, unit = "texts", "tokens"
    encoder_task, usage_template = "sentence-similarity", "publish/card/text_usage.md"
    preprocessor_files = TOKENIZER_FILES

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return transformers' classifier of sequences or of tokens."""
        return f"AutoModelFor{'Token' if problem_type.labels_words else 'Sequence'}Classification"

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return `token-classification` or `text-classification`."""
        return f"{'token' if problem_type.labels_words else 'text'}-classification"

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Copy the files of the tokenizer, and name the token that a tokenizer without a padding token pads with."""
        super().copy_preprocessor(source, target)
        path = target / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        if not config.get("pad_token"):
            from engine.models.load import load_tokenizer

            write_json(path, {**config, "pad_token": load_tokenizer(target).pad_token})

    def record_outputs(
        self,
        model: PreTrainedModel,
        folder: Path,
        inputs: Sequence[tuple[str, ...]],
        max_length: int | None,
        output_fn: Callable[[object], Tensor],
    ) -> dict:
        """Return {"texts", "max_length", "outputs"}."""
        from data import reference_outputs

        return reference_outputs.record_outputs(model, folder, inputs, max_length, output_fn)

    def sample_rows(self, examples: Sequence[Example], max_length: int | None) -> dict:
        """Return {"texts", "labels", "max_length", "total_rows"}."""
        from data import reference_outputs

        return reference_outputs.sample_rows(examples, max_length)


MODALITY = Text()
