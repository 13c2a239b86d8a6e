"""Reports of runs: trackers, the report of a run, and comparisons of runs."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import itertools
import json
import math
import random
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from browser import load_page
from helpers import ROOT, error_lines, run_module
from transformers import AutoModel, AutoTokenizer, BertConfig

from data.encoders import resolve_encoder
from engine import charts
from engine.config.schema import FileName, Section
from engine.runs import trackers
from engine.runs.run import Run, describe_change
from engine.runs.trackers import TrackerName, flatten_metrics
from engine.training.settings import Train
from finetune.__main__ import main as finetune_main
from publish.compare import main as compare_main, run_names
from publish.report import runs

RUN_ALL = "import sys, json; from finetune.__main__ import main; [main(args) for args in json.loads(sys.argv[1])]"
EXTERNAL_RESOURCE = re.compile(r"""(?:src|href)\s*=\s*["']?[^"'#]|@import|url\([^#]|<script|<link|<iframe""")


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory, sentiment_files) -> Path:
    """Fine-tune a tiny network on real text in two runs, `slow` with tensorboard and `fast`; return their folder."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "configs").symlink_to(ROOT / "configs")
    torch.manual_seed(0)
    AutoModel.from_config(
        BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=64
        )
    ).save_pretrained(folder / "encoder")
    AutoTokenizer.from_pretrained(resolve_encoder("minilm")).save_pretrained(folder / "encoder")
    args = [
        "configs/finetune/your-task.yaml",
        "method=none",
        f"task.train.files={sentiment_files}/labels.csv",
        "encoder=encoder",
        "max_length=32",
        "train.precision=float32",
        "train.steps=24",
        "train.log_every=2",
        "train.eval_every=8",
        "baselines=false",
        "task.num_examples=64",
    ]
    done = run_module(
        RUN_ALL,
        json.dumps([[*args, "run=slow", "train.lr=1e-4", "tracker=tensorboard"], [*args, "run=fast", "train.lr=2e-2"]]),
        prefix=(sys.executable, "-c"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "  report  out/runs/slow/report.html" in done.stdout
    return folder


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_saved_test_rows_reproduce_the_test_metric(runs_folder):
    """Compute the metric from files alone, as publish.export does, and compare it with fine-tuning's."""
    pytest.importorskip("onnxruntime")
    from publish.export import benchmark, onnx

    folder = runs_folder / "out/runs/fast"
    saved, network = json.loads((folder / "test.json").read_text()), onnx.load_model(folder / "model")
    rows = benchmark.load_benchmark_data(folder, network, None)
    assert (
        len(rows.inputs) == saved["total_rows"] == 50
        and rows.max_length == 32
        and not (folder / "model/test.json").exists()
    )
    raw_outputs = benchmark.predict(benchmark.torch_backend(network), network, rows)
    outputs = network.problem_type.decode_outputs(raw_outputs, network.config)
    accuracy = json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
    assert network.problem_type.score_predictions(outputs, rows.labels) == pytest.approx(accuracy)


# ---- trackers -------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_numbers_of_the_log(runs_folder):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(runs_folder / "out/runs/slow/tensorboard")).Reload()
    log = read_log(runs_folder / "out/runs/slow")
    expected = {
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "seconds",
        "checkpoint_seconds",
        "skipped_steps",
        "eval/accuracy",
        "eval/f1_macro",
        "eval/n",
    }
    assert set(events.Tags()["scalars"]) == expected
    for key in expected:
        section, _, metric = key.rpartition("/")
        entries = [entry for entry in log if (section or metric) in entry]
        values = [entry["eval"][metric] if section else entry[metric] for entry in entries]
        scalars = events.Scalars(key)
        assert [event.step for event in scalars] == [entry["step"] for entry in entries]
        assert [event.value for event in scalars] == pytest.approx(values, rel=1e-6)


def test_there_is_no_tracker_by_default(runs_folder):
    assert (
        not list((runs_folder / "out/runs/fast").glob("*board*"))
        and (runs_folder / "out/runs/fast/report.html").is_file()
    )


def test_tracker_keys_are_those_of_the_log():
    assert flatten_metrics({"step": 3, "loss": 0.5, "eval": {"accuracy": 1.0, "n": 7}, "note": "x"}) == {
        "loss": 0.5,
        "eval/accuracy": 1.0,
        "eval/n": 7,
    }


def test_a_missing_tracker_is_reported_before_anything_is_done(workspace, sentiment_files, capsys, monkeypatch):
    (workspace / "wandb").mkdir()  # the output folder of wandb, not its package
    real = importlib.util.find_spec
    monkeypatch.setattr(
        trackers.importlib.util,
        "find_spec",
        lambda name: None if name == "wandb" and getattr(real(name), "origin", None) else real(name),
    )
    lines = error_lines(
        finetune_main,
        [
            "configs/finetune/your-task.yaml",
            "method=none",
            f"task.train.files={sentiment_files}/labels.csv",
            "run=x",
            "encoder=minilm",
            "tracker=wandb",
        ],
        capsys,
        monkeypatch,
    )
    assert lines == ["tracker: wandb is not installed; pip install wandb, or set tracker=none"]
    assert not (workspace / "out/runs").exists()
    lines = error_lines(
        finetune_main,
        ["configs/finetune/your-task.yaml", "method=none", "run=x", "tracker=tensorbord"],
        capsys,
        monkeypatch,
    )
    assert any("tracker: 'tensorbord' is none of none, tensorboard, wandb, trackio, mlflow" in line for line in lines)


class RunConfig(Section):
    """The minimal configuration of a run."""

    run: FileName
    tracker: TrackerName = "none"
    resumable = ("tracker",)
    train: Train = Train(steps=1, lr=1, batch_size=1)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_trackers_of_a_run_that_was_killed_and_resumed(workspace, name, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(workspace / "trackio"))
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after step 3, with a checkpoint of step 2
        run = Run(RunConfig(run="w", tracker=name), "w")
        run.start()
        run.resume_at(start)
        for step in steps:
            run.log({"step": step, "loss": float(10 * start + step), "eval": {"accuracy": 0.5}})
        run.finish()
    assert [entry["loss"] for entry in run.read_log()] == [1, 2, 23, 24]
    Run(RunConfig(run="w"), "w")  # the tracker may change when a run is resumed
    if name == "tensorboard":
        module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        events = module.EventAccumulator("out/runs/w/tensorboard").Reload()
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 23), (4, 24)]
        assert set(events.Tags()["scalars"]) == {"loss", "eval/accuracy"}
    elif name == "wandb":
        assert len(list(Path("out/runs/w/wandb").glob("offline-run-*/*.wandb"))) == 2
    elif name == "mlflow":
        import mlflow

        mlflow_runs = mlflow.search_runs(experiment_names=[trackers.PROJECT])
        assert sorted(mlflow_runs["metrics.loss"]) == [3, 24] and set(mlflow_runs["metrics.eval/accuracy"]) == {0.5}
        assert Path("out/mlflow.db").is_file()


# ---- the run's report -----------------------------------------------------------------------------------------------


def test_the_report_of_a_run_in_a_browser(runs_folder, tmp_path):
    page, metrics = (
        runs_folder / "out/runs/slow/report.html",
        json.loads((runs_folder / "out/runs/slow/metrics.json").read_text()),
    )
    assert not EXTERNAL_RESOURCE.search(page.read_text())
    dom, requests = load_page(page, tmp_path / "profile")
    assert set(requests) <= {"/report.html", "/favicon.ico"} and "/report.html" in requests
    assert f"accuracy {metrics['test']['accuracy']:.3f}" in dom and "on 50 test examples, trained on 64 labels" in dom
    titles = re.findall(r'aria-label="([^"]*) by step"', dom)
    assert titles[0] == "loss" and {"lr, learning rate", "tokens_per_second, throughput", "eval/accuracy"} <= set(
        titles
    )
    assert "eval/n" not in titles, "a constant count gets no chart"
    for entry in read_log(runs_folder / "out/runs/slow"):
        if "eval" in entry:
            assert f"<td>{runs.format_number(entry['eval']['accuracy'])}</td>" in dom


def test_the_browser_records_the_requests_of_a_page(tmp_path):
    (tmp_path / "page.html").write_text(
        "<!doctype html><img src=there.png><p id=p></p><script>p.textContent=6*7</script>"
    )
    dom, requests = load_page(tmp_path / "page.html", tmp_path / "profile")
    assert "/there.png" in requests and ">42<" in dom


# ---- comparisons of runs --------------------------------------------------------------------------------------------


def test_two_runs_compared(runs_folder, capsys, tmp_path):
    with contextlib.chdir(runs_folder):
        compare_main(["out/runs/slow", "fast"])
        stdout, page = capsys.readouterr().out, Path("out/compared/slow-fast.html").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in stdout.splitlines() if line.strip()}
    assert rows["slow"] == ["fast"] and rows["steps"] == ["24", "24"]
    for index, name in enumerate(("slow", "fast")):
        folder = runs_folder / "out/runs" / name
        assert rows["loss"][index] == f"{read_log(folder)[-1]['loss']:.3f}"
        assert rows["test/accuracy"][index] == runs.format_number(
            json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
        )
    assert not EXTERNAL_RESOURCE.search(page)
    differ = page.split("Configuration differences")[1]
    assert re.search(r"<td>train.lr</td><td>0.0001</td><td>0.02</td>", differ) and "tracker" in differ
    assert "train.steps" not in differ
    for svg in re.findall(r"<svg [^>]* by step.*?</svg>", page, re.DOTALL):
        paths = re.findall(r'<path d="M[^"]*" clip-path=\S* style="([^"]*)"', svg)
        styles = [style for style in paths if "#dedede" not in style]  # the color of the grid
        assert len(styles) == 2 and len(set(styles)) == 2, "lines must differ without color"
        assert ">slow<" in svg and ">fast<" in svg, "lines are labeled at their end"
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)), "ids are unique on the page"


def test_comparing_an_unfinished_run_and_a_missing_one(runs_folder, tmp_path, capsys, monkeypatch):
    shutil.copytree(
        runs_folder / "out/runs/slow", tmp_path / "out/runs/now", ignore=shutil.ignore_patterns("model", "metrics.json")
    )
    with open(tmp_path / "out/runs/now/log.jsonl", "a") as file:
        file.write('{"step": 26, "lo')
    monkeypatch.chdir(tmp_path)
    compare_main(["out/runs/now", "--page", "here.html"])
    assert "24" in capsys.readouterr().out and "Runs compared: now" in (tmp_path / "here.html").read_text()
    assert error_lines(compare_main, ["out/runs/noww"], capsys, monkeypatch) == [
        "out/runs/noww: not a run, it has no config.yaml (nearest: now)"
    ]


def test_runs_with_the_same_name_are_named_by_their_path():
    assert run_names([Path("a/runs/x"), Path("b/runs/x"), Path("b/runs/y")]) == ["a/runs/x", "b/runs/x", "b/runs/y"]
    assert run_names([Path("a/runs/x"), Path("a/runs/y")]) == ["x", "y"]


# ---- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-5, 0.3, 7.0, 4e6])
def test_a_curve_can_be_read_back_from_its_chart(scale):
    rng = random.Random(0)
    points = [(10 * step, scale * (2 + rng.random())) for step in range(1, 41)]
    svg = charts.line_chart("loss", [charts.Line("a <run>", points), charts.Line("none", [(5, math.nan)])])
    assert html.escape("a <run>") in svg and ">none<" not in svg

    def read_axis(anchor: str, coordinate: int) -> tuple[float, float]:
        """Return (offset, slope) of an axis from its first and last tick: value = offset + slope * position."""
        texts = re.findall(rf'text-anchor: {anchor};[^>]* x="([^"]*)" y="([^"]*)"[^>]*>([-+\d.,e]+)<', svg)
        ticks = [(float(text.replace(",", "")), float(place[coordinate])) for *place, text in texts]
        (low, start), (high, end) = ticks[0], ticks[-1]
        assert len(ticks) >= 2
        slope = (high - low) / (end - start)
        return low - slope * start, slope

    (zero_x, slope_x), (zero_y, slope_y) = read_axis("middle", 0), read_axis("end", 1)
    path = max(re.findall(r'<path d="(M [^"]*)"', svg), key=len)
    for (step, value), (x, y) in zip(points, re.findall(r"[ML] (\S+) (\S+)", path), strict=True):
        assert abs(zero_x + slope_x * float(x) - step) < 2
        # A tick's text is 3.4 below its line.
        assert abs(zero_y + slope_y * (float(y) + 3.4) - value) < 0.02 * scale


def test_a_chart_is_the_same_in_every_run():
    lines = [charts.Line(name, [(1, 2.0), (2, 3.0)]) for name in ("a", "b $x^2$ <b>")]
    assert charts.line_chart("loss", lines) == charts.line_chart("loss", lines)
    assert charts.line_chart("loss", [charts.Line("none", [(5, math.nan)])]) == ""


def test_ticks_are_round_and_few():
    rng = random.Random(1)
    for _ in range(300):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-6, 6)
        high = low + abs(low) * 10 ** rng.uniform(-3, 1)
        values, labels = charts.ticks(low, high)
        assert 2 <= len(values) <= 6 and low - 1e-9 * abs(low) <= values[0] and values[-1] <= high + 1e-9 * abs(high)
        assert len(set(labels)) == len(values), "all tick labels differ"


def test_training_is_summarized_in_the_unit_of_the_modality():
    log = [{"step": 3, "tokens": 48, "seconds": 3, "tokens_per_second": 17}]
    assert runs.summarize_training(log) == {"steps": "3", "tokens": "48", "time": "0 min 03 s", "tokens/s": "17"}
    assert list(runs.summarize_training(log, "images")) == ["steps", "images", "time", "images/s"]


def test_long_curves_are_downsampled_to_means():
    points = [(float(step), float(step % 7)) for step in range(1000)]
    reduced = charts.downsample(points)
    assert (
        len(reduced) == charts.MAX_POINTS
        and charts.downsample(points[:50]) == points[:50]
        and charts.downsample([]) == []
    )
    assert math.isclose(
        sum(y for _, y in reduced) / len(reduced), sum(y for _, y in points) / len(points), rel_tol=0.02
    )
    assert all(one[0] < other[0] for one, other in itertools.pairwise(reduced))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (1, None, "k=1, not none"),
        ([{"a": 1, "b": {"c": 2}}], [{"a": 1, "b": {"c": 3}}], "k.0.b.c=2, not 3"),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 3}], "k.1.a=2, not 3"),
        ([{"a": 1}], [{"a": 1}, {"a": 2}], "another k"),
        ([], [{"a": 1}], "another k"),
        ([1], [2], "k=[1], not [2]"),
    ],
)
def test_a_difference_in_a_list_of_sources_is_one_value(old, new, expected):
    assert describe_change("k", old, new) == expected
