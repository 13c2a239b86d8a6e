"""A graph held to torch on real texts: what it says, how often that is right, how large it is, how long a text takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from engine.errors import ConfigError, DataError
from publish.export.onnx import LoadedModel
from publish.export.predictions import METRIC_NAMES, agreement, compute_metric, decode_outputs, word_start_tokens

BATCH_SIZE = 64  # texts asked together, but for the timing
TIMED_BATCH_SIZES = (1, 32)  # texts of a batch that is timed
NUM_TIMED_TEXTS = 64  # texts of a turn
Backend = Callable[[dict[str, np.ndarray]], np.ndarray]


class BenchmarkData(NamedTuple):
    """Texts to measure on."""

    texts: list[list[str]]
    """One string each, or two of a pair."""
    labels: list | None
    """Of each text; None where there are none."""
    max_length: int
    """Tokens of a text at most; the rest is cut off."""


def load_benchmark_data(run_folder: Path, model: LoadedModel, texts_file: str | None) -> BenchmarkData:
    """The lines of the file `texts_file`, else the run's test.json, else its sample.json. Raises ConfigError for none."""
    told = next(
        (
            json.loads(path.read_text(encoding="utf-8"))
            for path in (run_folder / "test.json", run_folder / "sample.json")
            if path.is_file()
        ),
        {},
    )
    longest = min(told.get("max_length", 512), model.tokenizer.model_max_length)
    if texts_file:
        if not Path(texts_file).is_file():
            raise ConfigError(f"texts: no file {texts_file!r}")
        lines = Path(texts_file).read_text(encoding="utf-8").splitlines()
        return BenchmarkData([[line.strip()] for line in lines if line.strip()], None, longest)
    if not told:
        raise ConfigError(
            f"{run_folder}: neither test.json nor sample.json is there to check on; give texts=FILE, a text a line"
        )
    between = model.tokenizer.sep_token or model.tokenizer.eos_token or "\n"
    pairs = [text if len(text) < 3 else [between.join(text)] for text in told["texts"]]
    return BenchmarkData(pairs, told.get("labels") if model.problem_type != "embedding" else None, longest)


def torch_backend(model: LoadedModel) -> Backend:
    """What the network itself says, (texts, ...)."""

    def ask(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            told = model.module(**{name: torch.from_numpy(each) for name, each in inputs.items()})
        return next(iter(told.values())).numpy()

    return ask


def onnx_backend(path: Path, threads: int) -> Backend:
    """What the graph in a file says, (texts, ...), by onnxruntime on the CPU."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, first = [given.name for given in session.get_inputs()], session.get_outputs()[0].name
    return lambda inputs: session.run([first], {name: inputs[name] for name in names})[0]


def encode(model: LoadedModel, data: BenchmarkData, indices: list[int]) -> dict[str, np.ndarray]:
    """The tokenizer's arrays of some texts, int64 (texts, longest of them)."""
    columns = [list(column) for column in zip(*(data.texts[place] for place in indices))]
    return dict(
        model.tokenizer(*columns, truncation=True, max_length=data.max_length, padding=True, return_tensors="np")
    )


def predict(backend: Backend, model: LoadedModel, data: BenchmarkData) -> list[np.ndarray]:
    """What is said of each text, in their order: (labels,), (its tokens, tags) or (width,)."""
    order = sorted(range(len(data.texts)), key=lambda place: sum(map(len, data.texts[place])))
    found: dict[int, np.ndarray] = {}
    for at in range(0, len(order), BATCH_SIZE):
        places = order[at : at + BATCH_SIZE]
        inputs = encode(model, data, places)
        lengths = inputs["attention_mask"].sum(1)
        for place, said, length in zip(places, backend(inputs), lengths):
            found[place] = said[:length] if said.ndim == 2 else said
    return [found[place] for place in range(len(order))]


def time_backends(
    backends: dict[str, Backend],
    model: LoadedModel,
    data: BenchmarkData,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[int, float]]:
    """Milliseconds a text for each way and size of batch: medians of rounds in which the ways take turns."""
    chosen = [
        place * len(data.texts) // NUM_TIMED_TEXTS for place in range(NUM_TIMED_TEXTS)
    ]  # from all along, again where there are fewer
    batches = {
        size: [encode(model, data, chosen[at : at + size]) for at in range(0, NUM_TIMED_TEXTS, size)]
        for size in TIMED_BATCH_SIZES
    }
    taken = {name: {size: [] for size in TIMED_BATCH_SIZES} for name in backends}
    for turn in range(rounds + 1):
        for name, ask in backends.items():
            for size, inputs in batches.items():
                began = clock()
                for each in inputs:
                    ask(each)
                if turn:  # the first is for warming up
                    taken[name][size].append(1000 * (clock() - began) / NUM_TIMED_TEXTS)
    return {name: {size: round(median(each), 3) for size, each in sizes.items()} for name, sizes in taken.items()}


def measure(
    model: LoadedModel, graph_paths: dict[str, Path], weights_path: Path, data: BenchmarkData, threads: int, rounds: int
) -> dict:
    """{"figure", "texts", "threads", "ways": {"torch" and each graph's name: what was measured}}.

    weights_path: torch's file. Raises DataError when the first graph does not say what torch says: it would be of no use.
    """
    torch.set_num_threads(threads)
    ways = {"torch": torch_backend(model), **{name: onnx_backend(path, threads) for name, path in graph_paths.items()}}
    said = {name: predict(ask, model, data) for name, ask in ways.items()}
    words = (
        [
            word_start_tokens(model.tokenizer(text[0], truncation=True, max_length=data.max_length), text[0])
            for text in data.texts
        ]
        if model.problem_type == "token_classification"
        else []
    )
    told = {name: decode_outputs(model.problem_type, each, model.config, words) for name, each in said.items()}
    largest = max(float(np.abs(each).max()) for each in said["torch"])
    times, found = time_backends(ways, model, data, rounds), {}
    for name, path in {"torch": weights_path, **graph_paths}.items():
        furthest = max(float(np.abs(one - other).max()) for one, other in zip(said[name], said["torch"]))
        if name == next(iter(graph_paths)) and not furthest <= 1e-3 * max(1.0, largest):
            raise DataError(f"the graph does not say what torch says: up to {furthest:.2g} apart; nothing was written")
        found[name] = {
            "max_abs_diff": furthest,
            "same": agreement(model.problem_type, told[name], told["torch"]),
            "figure": compute_metric(model.problem_type, told[name], data.labels) if data.labels else None,
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "milliseconds": times[name],
        }
    return {
        "says": model.problem_type,
        "figure": METRIC_NAMES.get(model.problem_type),
        "texts": len(data.texts),
        "largest": largest,
        "threads": threads,
        "ways": found,
    }
