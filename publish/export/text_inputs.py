"""Texts as inputs of an exported model: the tokenizer, texts to measure on, and the example script."""

from pathlib import Path

import numpy as np
from torch import Tensor
from torch.export import Dim
from transformers import PretrainedConfig

from data.tasks.problem_types import ProblemType
from engine.errors import ConfigError, DataError, first_line
from engine.files import read_json
from engine.models.load import load_tokenizer
from engine.models.positions import max_positions
from publish.export.example import text_script
from publish.export.predictions import BenchmarkData, word_start_tokens

MAX_TOKENS = 8_192  # of a text, if the network has no limit
TRACE_TEXTS = ("a film to remember", "Nothing in it is new, and that is all there is to say of it.")


class TextInputs:
    """Texts, as the tokenizer in a folder reads them. Raises DataError without one that runs without transformers."""

    noun, nouns, axes, tolerance = "text", "texts", ("texts", "tokens"), 1e-3

    def __init__(self, folder: Path):
        self.tokenizer = load_tokenizer(folder)
        if not (folder / "tokenizer.json").is_file():
            raise DataError(f"{folder}: has no tokenizer.json, which running the graph needs")

    def trace_inputs(self) -> dict[str, Tensor]:
        """Return inputs to trace the network with."""
        return dict(self.tokenizer(list(TRACE_TEXTS), padding=True, return_tensors="pt"))

    def list_dynamic_axes(self, config: PretrainedConfig) -> list[dict[int, Dim]]:
        """List the axes of any size of each input, as alternatives."""
        limit = max_positions(config) or MAX_TOKENS
        # An architecture may have another graph for two tokens, as that of relative positions.
        return [{0: Dim("texts", min=1), 1: Dim("tokens", min=least, max=limit)} for least in (2, 3)]

    def load_data(self, run_folder: Path, texts_file: str | None, has_labels: bool) -> BenchmarkData:
        """Load the lines of `texts_file`, or the run's test.json or sample.json. Raises ConfigError without any."""
        paths = [path for path in (run_folder / "test.json", run_folder / "sample.json") if path.is_file()]
        content = read_json(paths[0]) if paths else {}
        max_length = min(content.get("max_length", 512), self.tokenizer.model_max_length)
        if texts_file:
            if not Path(texts_file).is_file():
                raise ConfigError(f"texts: no file {texts_file!r}")
            try:
                lines = Path(texts_file).read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise ConfigError(f"texts: {texts_file!r} is not UTF-8 ({first_line(error)})") from None
            texts = [[line.strip()] for line in lines if line.strip()]
            if not texts:
                raise ConfigError(f"texts: no text in {texts_file!r}")
            return BenchmarkData(texts, None, max_length)
        if not content:
            reason = "no test.json or sample.json to measure on; set texts=FILE, one text per line"
            raise ConfigError(f"{run_folder}: {reason}")
        separator = self.tokenizer.sep_token or self.tokenizer.eos_token or "\n"
        texts = [text if len(text) < 3 else [separator.join(text)] for text in content["texts"]]
        return BenchmarkData(texts, content.get("labels") if has_labels else None, max_length)

    def order(self, data: BenchmarkData) -> list[int]:
        """Return the indices of the texts by their length."""
        return sorted(range(len(data.inputs)), key=lambda index: sum(map(len, data.inputs[index])))

    def encode(self, data: BenchmarkData, indices: list[int]) -> dict[str, np.ndarray]:
        """Tokenize some of the texts into arrays, int64 (texts, tokens of the longest)."""
        columns = [list(column) for column in zip(*(data.inputs[index] for index in indices), strict=True)]
        options = {"truncation": True, "max_length": data.max_length, "padding": True, "return_tensors": "np"}
        return dict(self.tokenizer(*columns, **options))

    def find_word_starts(self, data: BenchmarkData) -> list[list[int | None]]:
        """Return the first token of each word of each text."""
        options = {"truncation": True, "max_length": data.max_length}
        return [word_start_tokens(self.tokenizer(text[0], **options), text[0]) for text in data.inputs]

    def example_script(self, problem_type: ProblemType, data: BenchmarkData, graph_file: str) -> str:
        """Return the script for the graph in `graph_file`."""
        return text_script(problem_type, self.tokenizer, data.max_length, graph_file, len(data.inputs[0]) == 2)
