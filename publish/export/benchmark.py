"""Compare exported graphs with torch on real texts: outputs, metric, size and time."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from engine.errors import ConfigError, DataError, first_line
from engine.files import read_json
from publish.export.onnx import LoadedModel
from publish.export.predictions import EMBEDDING, word_start_tokens

BATCH_SIZE = 64  # except for timing
TIMED_BATCH_SIZES = (1, 32)
NUM_TIMED_TEXTS = 64  # per round
Backend = Callable[[dict[str, np.ndarray]], np.ndarray]


class BenchmarkData(NamedTuple):
    """Texts to measure on."""

    texts: list[list[str]]
    """One string for each text, or two for a pair."""
    labels: list | None
    """Label of each text; None if there are none."""
    max_length: int
    """Longest text in tokens; longer ones are truncated."""


def load_benchmark_data(run_folder: Path, model: LoadedModel, texts_file: str | None) -> BenchmarkData:
    """Load the lines of `texts_file`, or the run's test.json or sample.json. Raises ConfigError if there is none."""
    paths = [path for path in (run_folder / "test.json", run_folder / "sample.json") if path.is_file()]
    content = read_json(paths[0]) if paths else {}
    max_length = min(content.get("max_length", 512), model.tokenizer.model_max_length)
    if texts_file:
        if not Path(texts_file).is_file():
            raise ConfigError(f"texts: no file {texts_file!r}")
        lines = Path(texts_file).read_text(encoding="utf-8").splitlines()
        return BenchmarkData([[line.strip()] for line in lines if line.strip()], None, max_length)
    if not content:
        raise ConfigError(f"{run_folder}: no test.json or sample.json to measure on; set texts=FILE, one text per line")
    separator = model.tokenizer.sep_token or model.tokenizer.eos_token or "\n"
    texts = [text if len(text) < 3 else [separator.join(text)] for text in content["texts"]]
    return BenchmarkData(texts, None if model.problem_type is EMBEDDING else content.get("labels"), max_length)


def torch_backend(model: LoadedModel) -> Backend:
    """Return a function that computes the model's output, (texts, ...), with torch."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            outputs = model.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return next(iter(outputs.values())).numpy()

    return run


def onnx_backend(path: Path, threads: int) -> Backend:
    """Return a function that computes the output of the graph in a file, (texts, ...), with onnxruntime on the CPU.

    Raises DataError, also when called, for a graph that onnxruntime cannot run.
    """
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, output = [node.name for node in session.get_inputs()], session.get_outputs()[0].name

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return session.run([output], {name: inputs[name] for name in names})[0]
        except Exception as error:  # the classes of onnxruntime have no common one
            raise DataError(f"{path.name}: onnxruntime cannot run this graph ({first_line(error)})") from None

    return run


def encode(model: LoadedModel, data: BenchmarkData, indices: list[int]) -> dict[str, np.ndarray]:
    """Tokenize some of the texts into arrays, int64 (texts, tokens of the longest)."""
    columns = [list(column) for column in zip(*(data.texts[index] for index in indices), strict=True)]
    options = {"truncation": True, "max_length": data.max_length, "padding": True, "return_tensors": "np"}
    return dict(model.tokenizer(*columns, **options))


def predict(backend: Backend, model: LoadedModel, data: BenchmarkData) -> list[np.ndarray]:
    """Compute the output for each text: (labels,), (its tokens, tags) or (width,)."""
    order = sorted(range(len(data.texts)), key=lambda index: sum(map(len, data.texts[index])))
    outputs: dict[int, np.ndarray] = {}
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        inputs = encode(model, data, indices)
        lengths = inputs["attention_mask"].sum(1)
        for index, output, length in zip(indices, backend(inputs), lengths, strict=True):
            outputs[index] = output[:length] if output.ndim == 2 else output
    return [outputs[index] for index in range(len(order))]


def time_backends(
    backends: dict[str, Backend],
    model: LoadedModel,
    data: BenchmarkData,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[int, float]]:
    """Measure milliseconds per text by backend and batch size: medians over rounds in which the backends take turns."""
    # Evenly spaced; texts repeat if there are fewer.
    indices = [number * len(data.texts) // NUM_TIMED_TEXTS for number in range(NUM_TIMED_TEXTS)]
    batches = {
        size: [encode(model, data, indices[start : start + size]) for start in range(0, NUM_TIMED_TEXTS, size)]
        for size in TIMED_BATCH_SIZES
    }
    times = {name: {size: [] for size in TIMED_BATCH_SIZES} for name in backends}
    for number in range(rounds + 1):
        for name, backend in backends.items():
            for size, inputs in batches.items():
                start = clock()
                for batch in inputs:
                    backend(batch)
                if number:  # the first round warms up
                    times[name][size].append(1000 * (clock() - start) / NUM_TIMED_TEXTS)
    return {name: {size: round(median(each), 3) for size, each in sizes.items()} for name, sizes in times.items()}


def measure(
    model: LoadedModel, graph_paths: dict[str, Path], weights_path: Path, data: BenchmarkData, threads: int, rounds: int
) -> dict:
    """Compare the graphs with torch and return the contents of export.json.

    weights_path: torch's weights. Raises DataError if the first graph's outputs differ from those of torch.
    """
    torch.set_num_threads(threads)
    backends = {"torch": torch_backend(model)} | {
        name: onnx_backend(path, threads) for name, path in graph_paths.items()
    }
    outputs = {name: predict(backend, model, data) for name, backend in backends.items()}
    word_starts, problem_type = [], model.problem_type
    if problem_type.labels_words:
        options = {"truncation": True, "max_length": data.max_length}
        word_starts = [word_start_tokens(model.tokenizer(text[0], **options), text[0]) for text in data.texts]
    predictions = {
        name: problem_type.decode_outputs(values, model.config, word_starts) for name, values in outputs.items()
    }
    max_abs_output = max(float(np.abs(output).max()) for output in outputs["torch"])
    times, report = time_backends(backends, model, data, rounds), {}
    for name, path in {"torch": weights_path, **graph_paths}.items():
        pairs = zip(outputs[name], outputs["torch"], strict=True)
        max_abs_diff = max(float(np.abs(output - reference).max()) for output, reference in pairs)
        if name == next(iter(graph_paths)) and not max_abs_diff <= 1e-3 * max(1.0, max_abs_output):
            raise DataError(
                f"the graph does not match torch: outputs differ by up to {max_abs_diff:.2g}; nothing written"
            )
        report[name] = {
            "max_abs_diff": max_abs_diff,
            "agreement": problem_type.agreement(predictions[name], predictions["torch"]),
            "score": problem_type.score_predictions(predictions[name], data.labels) if data.labels else None,
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "milliseconds_per_text": times[name],
        }
    return {
        "problem_type": problem_type.name,
        "metric": problem_type.export_metric,
        "num_texts": len(data.texts),
        "max_abs_output": max_abs_output,
        "threads": threads,
        "backends": report,
    }
