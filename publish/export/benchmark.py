"""Compare exported graphs with torch on real inputs: outputs, metric, size and time."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from engine.errors import DataError, first_line
from publish.export.onnx import LoadedModel
from publish.export.predictions import EMBEDDING, BenchmarkData

BATCH_SIZE = 64  # except for timing
TIMED_BATCH_SIZES = (1, 32)
NUM_TIMED = 64  # per round
Backend = Callable[[dict[str, np.ndarray]], np.ndarray]


def load_benchmark_data(run_folder: Path, model: LoadedModel, source: str | None) -> BenchmarkData:
    """Load inputs from `source`, or the run's test.json or sample.json. Raises ConfigError if there is none."""
    return model.inputs.load_data(run_folder, source, model.problem_type is not EMBEDDING)


def torch_backend(model: LoadedModel) -> Backend:
    """Return a function that computes the model's output, (inputs, ...), with torch."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            outputs = model.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return next(iter(outputs.values())).numpy()

    return run


def onnx_backend(path: Path, threads: int) -> Backend:
    """Return a function that computes the output of the graph in a file, (inputs, ...), with onnxruntime on the CPU.

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


def predict(backend: Backend, model: LoadedModel, data: BenchmarkData) -> list[np.ndarray]:
    """Compute the output for each input: (labels,), (its tokens, tags) or (width,)."""
    order = model.inputs.order(data)
    outputs: dict[int, np.ndarray] = {}
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        inputs = model.inputs.encode(data, indices)
        for row, (index, output) in enumerate(zip(indices, backend(inputs), strict=True)):
            outputs[index] = output[: inputs["attention_mask"][row].sum()] if output.ndim == 2 else output
    return [outputs[index] for index in range(len(order))]


def time_backends(
    backends: dict[str, Backend],
    model: LoadedModel,
    data: BenchmarkData,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[int, float]]:
    """Measure milliseconds per input by backend and batch size: medians over rounds in which backends take turns."""
    # Evenly spaced; inputs repeat if there are fewer.
    indices = [number * len(data.inputs) // NUM_TIMED for number in range(NUM_TIMED)]
    batches = {
        size: [model.inputs.encode(data, indices[start : start + size]) for start in range(0, NUM_TIMED, size)]
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
                    times[name][size].append(1000 * (clock() - start) / NUM_TIMED)
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
    problem_type = model.problem_type
    word_starts = model.inputs.find_word_starts(data) if problem_type.labels_words else []
    predictions = {
        name: problem_type.decode_outputs(values, model.config, word_starts) for name, values in outputs.items()
    }
    max_abs_output = max(float(np.abs(output).max()) for output in outputs["torch"])
    times, report = time_backends(backends, model, data, rounds), {}
    for name, path in {"torch": weights_path, **graph_paths}.items():
        pairs = zip(outputs[name], outputs["torch"], strict=True)
        max_abs_diff = max(float(np.abs(output - reference).max()) for output, reference in pairs)
        if name == next(iter(graph_paths)) and not max_abs_diff <= model.inputs.tolerance * max(1.0, max_abs_output):
            raise DataError(
                f"the graph does not match torch: outputs differ by up to {max_abs_diff:.2g}; nothing written"
            )
        report[name] = {
            "max_abs_diff": max_abs_diff,
            "agreement": problem_type.agreement(predictions[name], predictions["torch"]),
            "score": problem_type.score_predictions(predictions[name], data.labels) if data.labels else None,
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "milliseconds_per_input": times[name],
        }
    return {
        "problem_type": problem_type.name,
        "metric": problem_type.export_metric,
        "inputs": model.inputs.nouns,
        "num_inputs": len(data.inputs),
        "max_abs_output": max_abs_output,
        "threads": threads,
        "backends": report,
    }
