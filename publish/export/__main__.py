"""Export a run to ONNX:  python -m publish.export out/runs/NAME --to onnx --quantize int8.

Writes the folder onnx/ in the run's model/ or encoder/: model.onnx, model_int8.onnx, example.py (without torch and
transformers) and export.json (difference from torch, accuracy, size and speed).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from engine.cli import parse_config, run_command
from engine.config.schema import Section
from engine.errors import ConfigError, DataError, first_line, suggest
from engine.files import read_json, write_folder, write_json
from engine.log import get_logger
from engine.runs.record import read_record
from engine.runs.run import RUNS_FOLDER, package_versions

logger = get_logger(__name__)

REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_POINTS_LOST = 1.0  # of the test metric in int8, in percentage points
MIN_SPEEDUP = 2.0  # of int8 over torch


class Export(Section):
    """Export a finished run to ONNX and compare it with torch."""

    run: str
    """Run: its folder or its name in out/runs, or a folder that transformers loads; also the positional argument."""
    to: Literal["onnx"] = "onnx"
    """Format."""
    quantize: Literal["int8"] | None = None
    """int8: also write a graph with int8 weights; none: float32 only. Not for networks of convolutions."""
    texts: str | None = None
    """File with one text per line to measure on; none: the run's test set, or a sample of its held-out text."""
    images: str | None = None
    """Folder of images to measure on, for a model of images; none: as for texts."""
    threads: PositiveInt = 1
    """Threads of torch and onnxruntime while they are timed."""
    rounds: PositiveInt = 5
    """Timing rounds, in which the backends take turns; medians are reported."""


def find_model_folder(run: str) -> tuple[Path, Path]:
    """Return (the run's folder, the folder in it that transformers loads). Raises ConfigError if there is none."""
    folder = Path(run) if Path(run).is_dir() else RUNS_FOLDER / run
    for inner in (folder / "model", folder / "encoder", folder):
        if (inner / "config.json").is_file() and any(inner.glob("*.safetensors")):
            return (folder.parent if inner == folder and folder.name in ("model", "encoder") else folder), inner
    if folder.is_dir():
        raise ConfigError(f"{folder}: not finished, it has neither encoder/ nor model/")
    raise ConfigError(f"run: no {run!r}{suggest(folder.name, [path.name for path in folder.parent.glob('*')])}")


def export(config: Export) -> None:
    """Write the graphs, all or none. Raises ConfigError and DataError for the user's mistakes."""
    missing = [name for name in REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"to: {', '.join(missing)} not installed; pip install {' '.join(REQUIRED_PACKAGES)}")
    run_folder, folder = find_model_folder(config.run)
    record = read_record(folder)
    if record.get("problem_type") == "anomaly_detection":
        reason = "an anomaly detector compares inputs with its normal rows, which is no graph"
        raise DataError(f"{folder}: {reason}; export {record['config']['encoder']}, its encoder, instead")
    import onnx_ir
    from transformers.utils import logging

    try:
        from publish.export import benchmark, onnx
    except ImportError as error:  # an older transformers has no exporters
        packages = " ".join(("transformers", *REQUIRED_PACKAGES))
        raise ConfigError(f"to: {first_line(error)}; pip install -U {packages}") from None

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = onnx.load_model(folder)
    given = {"texts": config.texts, "images": config.images}
    source = given.pop(model.inputs.nouns)
    if wrong := next((key for key, value in given.items() if value), None):
        raise ConfigError(f"{wrong}: {folder} reads {model.inputs.nouns}")
    data = benchmark.load_benchmark_data(run_folder, model, source)
    if config.quantize:
        onnx.check_quantizable(model)
    weights_path = next(folder.glob("model*.safetensors"))

    def fill(path: Path) -> None:
        graphs = {"float32": path / "model.onnx"}
        graph = onnx.export_onnx(model)
        onnx_ir.save(graph, graphs["float32"])
        if config.quantize:
            graphs[config.quantize] = path / f"model_{config.quantize}.onnx"
            onnx_ir.save(onnx.quantize_int8(graph), graphs[config.quantize])
        report = benchmark.measure(model, graphs, weights_path, data, config.threads, config.rounds)
        versions = {**package_versions(), **package_versions(REQUIRED_PACKAGES)}
        write_json(path / "export.json", {**report, "versions": versions})
        script = model.inputs.example_script(model.problem_type, data, list(graphs.values())[-1].name)
        if script:
            (path / "example.py").write_text(script, encoding="utf-8")

    written = write_folder(folder / "onnx", fill)
    logger.info(summary(read_json(written / "export.json"), written))


def summary(report: dict, folder: Path) -> str:
    """Return the table, the warnings about int8, and the next command."""
    backends, torch, rows = report["backends"], report["backends"]["torch"], {}
    noun = report["inputs"].removesuffix("s")
    if torch["score"] is not None:
        rows[report["metric"]] = [f"{backend['score']:.4f}" for backend in backends.values()]
    rows["max. difference"] = [f"{backend['max_abs_diff']:.1e}" for backend in backends.values()]
    if torch["agreement"] is not None:
        title = "mean cosine" if report["metric"] is None else "same prediction"
        rows[title] = [f"{backend['agreement']:.2%}" for backend in backends.values()]
    rows["megabytes"] = [f"{backend['megabytes']:.1f}" for backend in backends.values()]
    for size, baseline in torch["milliseconds_per_input"].items():
        times = [backend["milliseconds_per_input"][size] for backend in backends.values()]
        rows[f"ms per {noun}, batch of {size}"] = [f"{time:.2f}" for time in times]
        rows[f"  speedup, batch of {size}"] = [f"{baseline / time:.2f}" for time in times]
    lines = [
        "",
        f"  on {report['num_inputs']:,} {report['inputs']}, {report['threads']} thread{'s' * (report['threads'] > 1)},"
        f" outputs up to {report['max_abs_output']:.1f}",
        "",
        f"  {'':<24}" + "".join(f"{name:>12}" for name in backends),
    ]
    lines += [f"  {name:<24}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows.items()]
    if "int8" in backends:
        lines += [f"  {line}" for line in int8_warnings(backends, noun)]
    graphs = [folder / "model.onnx", *([folder / "model_int8.onnx"] if "int8" in backends else [])]
    lines += ["", f"  graph   {', '.join(map(str, graphs))}"]
    if (folder / "example.py").is_file():
        example = '"your text"' if noun == "text" else "photo.jpg"
        lines.append(f"  next    python {folder / 'example.py'} {example}")
    else:
        lines.append("  note: no example.py, because the image processor does more than scale, cut out and normalize")
    return "\n".join(lines)


def int8_warnings(backends: dict, noun: str = "text") -> list[str]:
    """Return a line for each goal that int8 misses: keeping accuracy, and speed."""
    torch, int8, warnings = backends["torch"], backends["int8"], []
    lost = 100 * (torch["score"] - int8["score"]) if torch["score"] is not None else 0
    batch_size = next(iter(torch["milliseconds_per_input"]))
    speedup = torch["milliseconds_per_input"][batch_size] / int8["milliseconds_per_input"][batch_size]
    if lost > MAX_POINTS_LOST:
        warnings.append(f"note: int8 loses {lost:.1f} points here; use float32")
    if speedup < MIN_SPEEDUP:
        warnings.append(f"note: int8 is only {speedup:.1f} times as fast as torch here, one {noun} at a time")
    return warnings


def main(args: list[str]) -> None:
    """Export the run that the command line names."""
    example = "out/runs/sentiment --to onnx --quantize int8"
    config = parse_config(Export, args, "publish.export", example, positional="run")
    if config:
        export(config)


if __name__ == "__main__":
    run_command(main)
