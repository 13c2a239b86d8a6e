"""Export a run as ONNX:  python -m publish.export out/runs/NAME to=onnx quantize=int8.

The folder onnx/ in the run's model/ or encoder/ then holds model.onnx, model_int8.onnx, example.py (which needs neither
torch nor transformers) and export.json: how far it is from torch, what it costs in accuracy, how large and fast it is.
`--to onnx --quantize int8` is understood too. `--help` lists the keys.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from engine.cli import parse_config, run_command
from engine.config.schema import Section
from engine.errors import ConfigError, first_line, suggest
from engine.files import read_json, write_folder, write_json
from engine.runs.run import RUNS_FOLDER, package_versions
from publish.words import flags_to_keys

REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_POINTS_LOST, MIN_SPEEDUP = (
    1.0,
    2.0,
)  # what int8 may lose on the test rows, and how many times as fast as torch it is to be


class Export(Section):
    """Export what a finished run left as ONNX, and hold it to torch."""

    run: str
    """The run: its folder, or its name in out/runs; or any folder that transformers loads. A bare word is taken for it."""
    to: Literal["onnx"] = "onnx"
    """What it becomes."""
    quantize: Literal["int8"] | None = None
    """int8: a second graph, its matrices in whole numbers; none: float32 alone."""
    texts: str | None = None
    """A file with a text a line to check and time on; none: the run's test rows, or what it keeps of its held-out text."""
    threads: PositiveInt = 1
    """Threads of torch and of onnxruntime while they are timed."""
    rounds: PositiveInt = 5
    """How often each is timed, in turns; medians are told."""


def find_model_folder(run: str) -> tuple[Path, Path]:
    """(the run's folder, the one in it that transformers loads). Raises ConfigError when there is none."""
    folder = Path(run) if Path(run).is_dir() else RUNS_FOLDER / run
    for inside in (folder / "model", folder / "encoder", folder):
        if (inside / "config.json").is_file() and any(inside.glob("*.safetensors")):
            return (folder.parent if inside == folder and folder.name in ("model", "encoder") else folder), inside
    if folder.is_dir():
        raise ConfigError(f"{folder}: not finished, neither encoder/ nor model/ is in it")
    raise ConfigError(f"run: no {run!r}{suggest(folder.name, [path.name for path in folder.parent.glob('*')])}")


def export(config: Export) -> None:
    """Write the graphs. Raises ConfigError and DataError for the user's mistakes; nothing is half written."""
    missing = [name for name in REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"to: {', '.join(missing)} not installed; pip install {' '.join(REQUIRED_PACKAGES)}")
    run, folder = find_model_folder(config.run)
    import onnx_ir
    from transformers.utils import logging

    try:
        from publish.export import benchmark, onnx
    except ImportError as error:  # transformers' exporters are younger than the rest that is needed of it
        raise ConfigError(
            f"to: {first_line(error)}; pip install -U {' '.join(('transformers', *REQUIRED_PACKAGES))}"
        ) from None
    from publish.export.example import example_script

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    network = onnx.load_model(folder)
    rows = benchmark.load_benchmark_data(run, network, config.texts)

    def fill(path: Path) -> None:
        graphs = {"float32": path / "model.onnx"}
        exported = onnx.export_onnx(network)
        onnx_ir.save(exported, graphs["float32"])
        if config.quantize:
            graphs[config.quantize] = path / f"model_{config.quantize}.onnx"
            onnx_ir.save(onnx.quantize_int8(exported), graphs[config.quantize])
        found = benchmark.measure(
            network, graphs, next(folder.glob("*.safetensors")), rows, config.threads, config.rounds
        )
        write_json(
            path / "export.json", {**found, "versions": {**package_versions(), **package_versions(REQUIRED_PACKAGES)}}
        )
        lines = example_script(
            network.problem_type,
            network.tokenizer,
            rows.max_length,
            list(graphs.values())[-1].name,
            pairs=len(rows.texts[0]) == 2,
        )
        (path / "example.py").write_text(lines, encoding="utf-8")

    written = write_folder(folder / "onnx", fill)
    print(summary(read_json(written / "export.json"), written))


def summary(report: dict, folder: Path) -> str:
    """The table, what falls short of what int8 is for, and what to type next."""
    ways, torch = report["ways"], report["ways"]["torch"]
    lines = {}
    if torch["figure"] is not None:
        lines[report["figure"]] = [f"{way['figure']:.4f}" for way in ways.values()]
    lines["furthest from torch"] = [f"{way['max_abs_diff']:.1e}" for way in ways.values()]
    if torch["same"] is not None:
        lines["mean cosine" if report["says"] == "embedding" else "same answer"] = [
            f"{way['same']:.2%}" for way in ways.values()
        ]
    lines["megabytes"] = [f"{way['megabytes']:.1f}" for way in ways.values()]
    for size, base in torch["milliseconds"].items():
        lines[f"ms a text, {size} at once"] = [f"{way['milliseconds'][size]:.2f}" for way in ways.values()]
        lines[f"  times as fast, {size}"] = [f"{base / way['milliseconds'][size]:.2f}" for way in ways.values()]
    out = [
        "",
        f"  on {report['texts']:,} texts, {report['threads']} thread{'s' * (report['threads'] > 1)}, outputs up to"
        f" {report['largest']:.1f}",
        "",
        f"  {'':<24}" + "".join(f"{name:>12}" for name in ways),
    ]
    out += [f"  {name:<24}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines.items()]
    if "int8" in ways:
        out += [f"  {line}" for line in int8_warnings(ways)]
    return "\n".join(
        [
            *out,
            "",
            f"  graph   {folder / 'model.onnx'}" + f", {folder / 'model_int8.onnx'}" * ("int8" in ways),
            f'  next    python {folder / "example.py"} "your text"',
        ]
    )


def int8_warnings(backends: dict) -> list[str]:
    """A line for each of the two things that int8 is for and does not reach."""
    lost = (
        100 * (backends["torch"]["figure"] - backends["int8"]["figure"])
        if backends["torch"]["figure"] is not None
        else 0
    )
    one = next(iter(backends["torch"]["milliseconds"]))
    times = backends["torch"]["milliseconds"][one] / backends["int8"]["milliseconds"][one]
    return [
        *([f"note: int8 loses {lost:.1f} points here; float32 is the one to use"] if lost > MAX_POINTS_LOST else []),
        *(
            [f"note: int8 is only {times:.1f} times as fast as torch here, one text at a time"]
            if times < MIN_SPEEDUP
            else []
        ),
    ]


def main(args: list[str]) -> None:
    config = parse_config(
        Export, flags_to_keys(args, "run"), "publish.export", "out/runs/sentiment to=onnx quantize=int8"
    )
    if config is not None:
        export(config)


if __name__ == "__main__":
    run_command(main)
