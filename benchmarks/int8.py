"""Compare int8 quantization methods with torch on the runs' test rows; publish.export uses the best one.

    OMP_NUM_THREADS=1 python benchmarks/int8.py out/runs/sentiment [out/runs/...]

Each run must be exported first (python -m publish.export RUN). Times are CPU times of one thread, which other processes
on the machine affect little: medians of alternating rounds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir
import results
import torch
from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
from transformers.exporters.configs import ExportFormat
from transformers.utils import logging

from publish.export import benchmark, onnx

ROUNDS = 3


def quantize_dynamic(onnx_model: onnx_ir.Model, **settings: object) -> onnx_ir.Model:
    """Apply onnxruntime's dynamic quantization, with one scale for each input of a product."""
    with onnx.silence_exporters():
        return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**settings)).quantize(onnx_model, {}, ExportFormat.ONNX)


def widest_matmuls(onnx_model: onnx_ir.Model) -> list[str]:
    """Return the products that follow a layer's activation at its widest, where outliers are."""
    shapes = {
        node.name: list(node.inputs[1].shape)
        for node in onnx_model.graph
        if node.op_type == "MatMul" and node.inputs[1].name in onnx_model.graph.initializers
    }
    return [name for name, shape in shapes.items() if shape[0] > shape[1]]


QUANTIZERS = {
    "per tensor": lambda exported: quantize_dynamic(exported),
    "per channel": lambda exported: quantize_dynamic(exported, per_channel=True),
    "per channel, 7 bits": lambda exported: quantize_dynamic(exported, per_channel=True, reduce_range=True),
    "per channel, 7 bits, widest inputs in float32": lambda exported: quantize_dynamic(
        exported, per_channel=True, reduce_range=True, nodes_to_exclude=widest_matmuls(exported)
    ),
    "per block, inputs too (chosen)": onnx.quantize_int8,
}


def table_rows(run_folder: Path, work_folder: Path) -> list[list[str]]:
    """Return table rows for torch, float32 and each quantizer."""
    network = onnx.load_model(run_folder / "model")
    data = benchmark.load_benchmark_data(run_folder, network, None)
    problem_type, graph = network.problem_type, onnx_ir.load(run_folder / "model/onnx/model.onnx")
    files = {"torch": run_folder / "model/model.safetensors", "float32": run_folder / "model/onnx/model.onnx"}
    for number, (name, quantize) in enumerate(QUANTIZERS.items()):
        files[name] = work_folder / f"{number}.onnx"
        onnx_ir.save(quantize(graph), files[name])
    backends = {name: benchmark.onnx_backend(path, 1) for name, path in files.items() if name != "torch"}
    backends = {"torch": benchmark.torch_backend(network), **backends}
    outputs = {name: benchmark.predict(backend, network, data) for name, backend in backends.items()}
    decoded = {name: problem_type.decode_outputs(each, network.config) for name, each in outputs.items()}
    times = benchmark.time_backends(backends, network, data, ROUNDS, time.process_time)
    reference = np.array(outputs["torch"])
    return [
        [
            f"{run_folder.name}: {name}",
            f"{problem_type.score_predictions(decoded[name], data.labels):.4f}",
            f"{problem_type.agreement(decoded[name], decoded['torch']):.2%}",
            f"{np.sqrt(np.mean((np.array(outputs[name]) - reference) ** 2)):.4f}",
            f"{files[name].stat().st_size / 1e6:.1f}",
            *(f"{value:.2f} ({times['torch'][size] / value:.2f})" for size, value in times[name].items()),
        ]
        for name in backends
    ]


def main(args: list[str]) -> None:
    """Run the benchmark for each run folder."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for run in args for row in table_rows(Path(run), Path(folder))]
    times = [f"ms per text, batch of {size}" for size in benchmark.TIMED_BATCH_SIZES]
    table = results.markdown_table(["", "metric", "agreement", "RMS difference", "MB", *times], rows)
    command = f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')} python benchmarks/int8.py {' '.join(args)}"
    results.write_section("int8 methods", command, f"{table}\n\nIn parentheses: speedup over torch.")
    print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
