"""Text: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.encoders import TOKENIZER_FILES, read_pooling
from data.modalities import Modality
from data.sources.values import get_text
from data.tasks import iob
from data.tasks.columns import find_text
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from engine.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from data.tokens.dataset import TextDataset

DEFAULT_MAX_LENGTH = 512  # tokens of a text, for a model without a record


class Text(Modality):
    """Texts, read by a tokenizer."""

    name = input_noun = "text"
    inputs_noun, example_input, unit = "texts", "your text", "tokens"
    encoder_task, usage_template = "sentence-similarity", "publish/card/text_usage.md"
    preprocessor_files, pools_states = TOKENIZER_FILES, True

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return transformers' classifier of sequences or of tokens, or the encoder alone."""
        if problem_type.is_detector:
            return "AutoModel"
        return f"AutoModelFor{'Token' if problem_type.labels_words else 'Sequence'}Classification"

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return `token-classification` or `text-classification`, or what an encoder does."""
        if problem_type.is_detector:
            return "feature-extraction"
        return f"{'token' if problem_type.labels_words else 'text'}-classification"

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Copy the files of the tokenizer, and name the token that a tokenizer without a padding token pads with."""
        super().copy_preprocessor(source, target)
        path = target / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        if not config.get("pad_token"):
            from engine.models.load import load_tokenizer

            write_json(path, {**config, "pad_token": load_tokenizer(target).pad_token})

    def find_columns(self, columns: list[str]) -> str | list[str] | None:
        """Return the column of the text, or the two of a pair."""
        return find_text(columns)

    def read_input(self, row: dict, columns: list[str], problem_type: ProblemType, location: str) -> Example | None:
        """Return the texts of a row; of a model that labels words, its words joined by spaces."""
        if problem_type.labels_words and len(columns) == 1:
            if iob.find_words(row, columns[0], location) is not None:
                words = iob.join_words(row, columns[0], location).split(" ")
            else:
                words = re.findall(r"\S+", get_text(row, columns[0], location))
            return Example((" ".join(words),), ("O",) * len(words)) if any(words) else None
        texts = tuple(get_text(row, column, location) for column in columns)
        return Example(texts, "") if all(text.strip() for text in texts) else None

    def make_reader(
        self, folder: Path, max_length: int | None, problem_type: ProblemType
    ) -> Callable[[list[Example]], TextDataset]:
        """Return a function that tokenizes; a text without tokens gets one, so that the network can read it."""
        import numpy as np

        from data.tokens.dataset import ExampleTokenizer

        tokenizer = ExampleTokenizer(folder, max_length or DEFAULT_MAX_LENGTH)
        words = (problem_type, ["O"]) if problem_type.labels_words else ()

        def read(examples: list[Example]) -> TextDataset:
            dataset = tokenizer.tokenize(examples, str(folder), *words, allow_empty=True)
            for name, rows in dataset.fields.items():
                filler = np.array([1 if name == "attention_mask" else dataset.padding_values[name]], np.int32)
                dataset.fields[name] = [row if len(row) else filler for row in rows]
            return dataset

        return read

    def load_embedder(self, folder: Path) -> nn.Module:
        """Return the encoder with its own pooling, or the mean of its last hidden states."""
        from engine.models import embed

        return embed.Embedder(embed.load_model(folder), read_pooling(folder) or "mean")

    def pool_states(self, states: tuple[Tensor, ...], inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean of the tokens' states two thirds up the layers (docs/predict.md)."""
        from engine.models.embed import pool

        return pool(states[2 * (len(states) - 1) // 3].float(), inputs["attention_mask"])

    def pool_layer(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean of the tokens' states."""
        from engine.models.embed import pool

        return states.float().mean(1) if attention_mask is None else pool(states.float(), attention_mask)

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
