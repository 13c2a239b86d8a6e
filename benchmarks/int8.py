"""Ways to put a graph's matrices in int8, held to torch on the runs' own test rows: what publish.export chose from.

    OMP_NUM_THREADS=1 python benchmarks/int8.py out/runs/sentiment [out/runs/...]

Each run has been exported before (python -m publish.export RUN). Times are processor time of one thread, so that what else
runs on the machine counts little; medians of rounds in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
from transformers.exporters.configs import ExportFormat
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
import results  # noqa: E402

from publish.export import benchmark, onnx, predictions  # noqa: E402

ROUNDS = 3


def quantize_dynamic(onnx_model: onnx_ir.Model, **settings: object) -> onnx_ir.Model:
    """Onnxruntime's dynamic quantization: one scale for all that comes into a product."""
    with onnx.silence_exporters():
        return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**settings)).quantize(onnx_model, {}, ExportFormat.ONNX)


def widest_matmuls(onnx_model: onnx_ir.Model) -> list[str]:
    """The products that read what a layer is widest at, after its activation: outliers stand there."""
    kept = onnx_model.graph.initializers
    shapes = {
        node.name: list(node.inputs[1].shape)
        for node in onnx_model.graph
        if node.op_type == "MatMul" and node.inputs[1].name in kept
    }
    return [name for name, shape in shapes.items() if shape[0] > shape[1]]


QUANTIZERS = {
    "a scale a matrix, one for inputs": lambda exported: quantize_dynamic(exported),
    "a scale a column, one for inputs": lambda exported: quantize_dynamic(exported, per_channel=True),
    "the same, 7 bits": lambda exported: quantize_dynamic(exported, per_channel=True, reduce_range=True),
    "the same, widest inputs in float32": lambda exported: quantize_dynamic(
        exported, per_channel=True, reduce_range=True, nodes_to_exclude=widest_matmuls(exported)
    ),
    "by blocks, inputs too (chosen)": onnx.quantize_int8,
}


def table_rows(run_folder: Path, work_folder: Path) -> list[list[str]]:
    """A table's lines: torch, float32, and each way."""
    network = onnx.load_model(run_folder / "model")
    rows, exported = (
        benchmark.load_benchmark_data(run_folder, network, None),
        onnx_ir.load(run_folder / "model/onnx/model.onnx"),
    )
    files = {"float32": run_folder / "model/onnx/model.onnx"}
    for number, (name, make) in enumerate(QUANTIZERS.items()):
        files[name] = work_folder / f"{number}.onnx"
        onnx_ir.save(make(exported), files[name])
    ways = {
        "torch": benchmark.torch_backend(network),
        **{name: benchmark.onnx_backend(path, 1) for name, path in files.items()},
    }
    said = {name: benchmark.predict(ask, network, rows) for name, ask in ways.items()}
    told = {
        name: predictions.decode_outputs(network.problem_type, each, network.config, []) for name, each in said.items()
    }
    times = benchmark.time_backends(ways, network, rows, ROUNDS, time.process_time)
    return [
        [
            f"{run_folder.name}: {name}",
            f"{predictions.compute_metric(network.problem_type, told[name], rows.labels):.4f}",
            f"{predictions.agreement(network.problem_type, told[name], told['torch']):.2%}",
            f"{np.sqrt(np.mean((np.array(said[name]) - np.array(said['torch'])) ** 2)):.4f}",
            f"{(files[name] if name in files else run_folder / 'model/model.safetensors').stat().st_size / 1e6:.1f}",
            *(
                f"{times[name][size]:.2f} ({times['torch'][size] / times[name][size]:.2f})"
                for size in benchmark.TIMED_BATCH_SIZES
            ),
        ]
        for name in ways
    ]


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        lines = [line for run in sys.argv[1:] for line in table_rows(Path(run), Path(place))]
    head = [
        "",
        "figure",
        "same answer",
        "distance (rms)",
        "MB",
        *(f"ms a text, {size} at once" for size in benchmark.TIMED_BATCH_SIZES),
    ]
    results.write_section(
        "int8, several ways",
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')} python benchmarks/int8.py " + " ".join(sys.argv[1:]),
        results.markdown_table(head, lines) + "\n\nIn brackets: times as fast as torch.",
    )
    print(results.markdown_table(head, lines))
