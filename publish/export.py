"""Export a run as ONNX:  python -m publish.export out/runs/NAME to=onnx quantize=int8

The folder onnx/ in the run's model/ or encoder/ then holds model.onnx, model_int8.onnx, example.py (which needs neither
torch nor transformers) and export.json: how far it is from torch, what it costs in accuracy, how large and fast it is.
`--to onnx --quantize int8` is understood too. `--help` lists the keys.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from engine.command import command, configuration
from engine.config import Section
from engine.errors import ConfigError, first_line, nearest
from engine.files import read_json, write_json, write_whole
from engine.record import RUNS, versions
from publish.words import as_keys

NEEDED = ("onnx", "onnxscript", "onnxruntime")
POINTS, TIMES = 1.0, 2.0  # what int8 may lose on the test rows, and how many times as fast as torch it is to be


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


def find(run: str) -> tuple[Path, Path]:
    """(the run's folder, the one in it that transformers loads). Raises ConfigError when there is none."""
    folder = Path(run) if Path(run).is_dir() else RUNS / run
    for inside in (folder / "model", folder / "encoder", folder):
        if (inside / "config.json").is_file() and any(inside.glob("*.safetensors")):
            return (folder.parent if inside == folder and folder.name in ("model", "encoder") else folder), inside
    if folder.is_dir():
        raise ConfigError(f"{folder}: not finished, neither encoder/ nor model/ is in it")
    raise ConfigError(f"run: no {run!r}{nearest(folder.name, [path.name for path in folder.parent.glob('*')])}")


def export(config: Export) -> None:
    """Write the graphs. Raises ConfigError and DataError for the user's mistakes; nothing is half written."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"to: {', '.join(missing)} not installed; pip install {' '.join(NEEDED)}")
    run, folder = find(config.run)
    import onnx_ir
    from transformers.utils import logging

    try:
        from publish import graph, measured
    except ImportError as error:  # transformers' exporters are younger than the rest that is needed of it
        raise ConfigError(f"to: {first_line(error)}; pip install -U {' '.join(('transformers', *NEEDED))}") from None
    from publish.example import example
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    network = graph.read(folder)
    rows = measured.rows_of(run, network, config.texts)

    def fill(path: Path) -> None:
        graphs = {"float32": path / "model.onnx"}
        exported = graph.graph_of(network)
        onnx_ir.save(exported, graphs["float32"])
        if config.quantize:
            graphs[config.quantize] = path / f"model_{config.quantize}.onnx"
            onnx_ir.save(graph.whole_numbers(exported), graphs[config.quantize])
        found = measured.measure(network, graphs, next(folder.glob("*.safetensors")), rows, config.threads, config.rounds)
        write_json(path / "export.json", {**found, "versions": {**versions(), **versions(NEEDED)}})
        lines = example(network.says, network.tokenizer, rows.longest, list(graphs.values())[-1].name,
                        pairs=len(rows.texts[0]) == 2)
        (path / "example.py").write_text(lines, encoding="utf-8")

    written = write_whole(folder / "onnx", fill)
    print(summary(read_json(written / "export.json"), written))


def summary(found: dict, folder: Path) -> str:
    """The table, what falls short of what int8 is for, and what to type next."""
    ways, torch = found["ways"], found["ways"]["torch"]
    lines = {}
    if torch["figure"] is not None:
        lines[found["figure"]] = [f"{way['figure']:.4f}" for way in ways.values()]
    lines["furthest from torch"] = [f"{way['furthest']:.1e}" for way in ways.values()]
    if torch["same"] is not None:
        lines["mean cosine" if found["says"] == "vectors" else "same answer"] = [f"{way['same']:.2%}" for way in ways.values()]
    lines["megabytes"] = [f"{way['megabytes']:.1f}" for way in ways.values()]
    for size, base in torch["milliseconds"].items():
        lines[f"ms a text, {size} at once"] = [f"{way['milliseconds'][size]:.2f}" for way in ways.values()]
        lines[f"  times as fast, {size}"] = [f"{base / way['milliseconds'][size]:.2f}" for way in ways.values()]
    out = ["", f"  on {found['texts']:,} texts, {found['threads']} thread{'s' * (found['threads'] > 1)}, outputs up to"
               f" {found['largest']:.1f}", "", f"  {'':<24}" + "".join(f"{name:>12}" for name in ways)]
    out += [f"  {name:<24}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines.items()]
    if "int8" in ways:
        out += [f"  {line}" for line in short_of(ways)]
    return "\n".join([*out, "", f"  graph   {folder / 'model.onnx'}" + f", {folder / 'model_int8.onnx'}" * ("int8" in ways),
                      f"  next    python {folder / 'example.py'} \"your text\""])


def short_of(ways: dict) -> list[str]:
    """A line for each of the two things that int8 is for and does not reach."""
    lost = 100 * (ways["torch"]["figure"] - ways["int8"]["figure"]) if ways["torch"]["figure"] is not None else 0
    one = next(iter(ways["torch"]["milliseconds"]))
    times = ways["torch"]["milliseconds"][one] / ways["int8"]["milliseconds"][one]
    return [*([f"note: int8 loses {lost:.1f} points here; float32 is the one to use"] if lost > POINTS else []),
            *([f"note: int8 is only {times:.1f} times as fast as torch here, one text at a time"] if times < TIMES else [])]


def main(words: list[str]) -> None:
    config = configuration(Export, as_keys(words, "run"), "publish.export", "out/runs/sentiment to=onnx quantize=int8")
    if config is not None:
        export(config)


if __name__ == "__main__":
    command(main)
