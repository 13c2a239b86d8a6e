"""Watching a run: trackers, the run's own page, runs held against each other."""

from __future__ import annotations

import contextlib
import html
import importlib.util
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
from engine.config.schema import RunName, Section
from engine.runs import trackers
from engine.runs.run import Run
from engine.runs.trackers import TrackerName, flatten_metrics
from engine.training.settings import Train
from finetune.__main__ import main as finetune_main
from publish.compare import main as compare_main, run_names
from publish.report import charts, runs

BOTH = "import sys, json; from finetune.__main__ import main; [main(words) for words in json.loads(sys.argv[1])]"
FETCHED = re.compile(r"""(?:src|href)\s*=|@import|url\(|<script|<link|<iframe""")


@pytest.fixture(scope="module")
def taught(tmp_path_factory, sentiment_files) -> Path:
    """A folder with two runs, `slow` watched by tensorboard and `fast`, of a network that trains in a second, on real text."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "configs").symlink_to(ROOT / "configs")
    torch.manual_seed(0)
    AutoModel.from_config(
        BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=64
        )
    ).save_pretrained(folder / "encoder")
    AutoTokenizer.from_pretrained(resolve_encoder("minilm")).save_pretrained(folder / "encoder")
    words = [
        "configs/finetune/your-task.yaml",
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
        BOTH,
        json.dumps(
            [[*words, "run=slow", "train.lr=1e-4", "tracker=tensorboard"], [*words, "run=fast", "train.lr=2e-2"]]
        ),
        prefix=(sys.executable, "-c"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "  report  out/runs/slow/report.html" in done.stdout
    return folder


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_test_rows_kept_beside_a_run_give_its_figure(taught):
    """What publish.export measures on: by its own way, from files alone, it comes to what fine-tuning said."""
    pytest.importorskip("onnxruntime")
    from publish.export import benchmark, onnx, predictions

    folder = taught / "out/runs/fast"
    kept, network = json.loads((folder / "test.json").read_text()), onnx.load_model(folder / "model")
    rows = benchmark.load_benchmark_data(folder, network, None)
    assert (
        len(rows.texts) == kept["total_rows"] == 50
        and rows.max_length == 32
        and not (folder / "model/test.json").exists()
    )
    told = predictions.decode_outputs(
        network.problem_type, benchmark.predict(benchmark.torch_backend(network), network, rows), network.config, []
    )
    figure = json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
    assert predictions.compute_metric(network.problem_type, told, rows.labels) == pytest.approx(figure)


# ---- trackers -------------------------------------------------------------------------------------------------------


def test_tensorboard_is_told_what_the_log_says(taught):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(taught / "out/runs/slow/tensorboard")).Reload()
    log = log_of(taught / "out/runs/slow")
    expected = {
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "seconds",
        "checkpoint_seconds",
        "skipped_steps",
        "evaluation/accuracy",
        "evaluation/f1_macro",
        "evaluation/n",
    }
    assert set(events.Tags()["scalars"]) == expected
    for key in expected:
        inside = key.split("/")
        own = [
            (entry["step"], entry[inside[0]] if len(inside) == 1 else entry["eval"][inside[1]])
            for entry in log
            if inside[0] in entry
        ]
        there = [(event.step, event.value) for event in events.Scalars(key)]
        assert [step for step, _ in there] == [step for step, _ in own]
        assert all(math.isclose(one, other, rel_tol=1e-6) for (_, one), (_, other) in zip(there, own))


def test_nothing_but_the_log_unless_asked_for(taught):
    assert not list((taught / "out/runs/fast").glob("*board*")) and (taught / "out/runs/fast/report.html").is_file()


def test_the_keys_are_those_of_the_log():
    assert flatten_metrics({"step": 3, "loss": 0.5, "eval": {"accuracy": 1.0, "n": 7}, "note": "x"}) == {
        "loss": 0.5,
        "evaluation/accuracy": 1.0,
        "evaluation/n": 7,
    }


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_done(
    workspace, sentiment_files, capsys, monkeypatch
):
    (workspace / "wandb").mkdir()  # as wandb itself leaves one: not the package
    real = importlib.util.find_spec
    monkeypatch.setattr(
        trackers.importlib.util,
        "find_spec",
        lambda name: None if name == "wandb" and getattr(real(name), "origin", None) else real(name),
    )
    told = error_lines(
        finetune_main,
        [
            "configs/finetune/your-task.yaml",
            f"task.train.files={sentiment_files}/labels.csv",
            "run=x",
            "encoder=minilm",
            "tracker=wandb",
        ],
        capsys,
        monkeypatch,
    )
    assert told == ["tracker: wandb is not installed; pip install wandb, or leave tracker=none"]
    assert not (workspace / "out/runs").exists()
    told = error_lines(
        finetune_main, ["configs/finetune/your-task.yaml", "run=x", "tracker=tensorbord"], capsys, monkeypatch
    )
    assert any("tracker: 'tensorbord' is none of none, tensorboard, wandb, trackio, mlflow" in line for line in told)


class Watched(Section):
    """The least a run needs."""

    run: RunName
    tracker: TrackerName = "none"
    train: Train = Train(steps=1, lr=1, batch_size=1)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_trackers_of_a_run_that_was_killed_and_goes_on(workspace, name, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(workspace / "trackio"))
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after step 3, its newest checkpoint being of step 2
        run = Run(Watched(run="w", tracker=name), "w")
        run.start()
        run.resume_at(start)
        for step in steps:
            run.log({"step": step, "loss": float(10 * start + step), "eval": {"accuracy": 0.5}})
        run.finish()
    assert [entry["loss"] for entry in run.read_log()] == [1, 2, 23, 24]
    Run(Watched(run="w"), "w")  # the same run: who watches it is not what it is
    if name == "tensorboard":
        module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        events = module.EventAccumulator("out/runs/w/tensorboard").Reload()
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 23), (4, 24)]
        assert set(events.Tags()["scalars"]) == {"loss", "evaluation/accuracy"}
    elif name == "wandb":
        assert len(list(Path("out/runs/w/wandb").glob("offline-run-*/*.wandb"))) == 2
    elif name == "mlflow":
        import mlflow

        found = mlflow.search_runs(experiment_names=[trackers.PROJECT])
        assert sorted(found["metrics.loss"]) == [3, 24] and set(found["metrics.evaluation/accuracy"]) == {0.5}
        assert Path("out/mlflow.db").is_file()


# ---- the run's page -------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_in_a_browser(taught, tmp_path):
    page, metrics = (
        taught / "out/runs/slow/report.html",
        json.loads((taught / "out/runs/slow/metrics.json").read_text()),
    )
    assert not FETCHED.search(page.read_text())
    dom, asked = load_page(page, tmp_path / "profile")
    assert set(asked) <= {"/report.html", "/favicon.ico"} and "/report.html" in asked
    assert f"accuracy {metrics['test']['accuracy']:.3f}" in dom and "on 50 test examples, trained on 64 labels" in dom
    titles = re.findall(r'<text class="title"[^>]*>(.*?)</text>', dom)
    assert titles[0] == "loss" and {"lr, learning rate", "tokens_per_second, throughput", "evaluation/accuracy"} <= set(
        titles
    )
    assert "evaluation/n" not in titles, "how many there were is no curve"
    assert dom.count("<polyline") == len(titles)
    for entry in log_of(taught / "out/runs/slow"):
        if "eval" in entry:
            assert f"<td>{runs.format_number(entry['eval']['accuracy'])}</td>" in dom


def test_the_browser_does_tell_what_a_page_asks_for(tmp_path):
    (tmp_path / "page.html").write_text(
        "<!doctype html><img src=there.png><p id=p></p><script>p.textContent=6*7</script>"
    )
    dom, asked = load_page(tmp_path / "page.html", tmp_path / "profile")
    assert "/there.png" in asked and ">42<" in dom


# ---- runs held against each other -----------------------------------------------------------------------------------


def test_two_runs_compared(taught, capsys, tmp_path):
    with contextlib.chdir(taught):
        compare_main(["out/runs/slow", "fast"])
        told, page = capsys.readouterr().out, Path("out/compared/slow-fast.html").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.strip()}
    assert rows["slow"] == ["fast"] and rows["steps"] == ["24", "24"]
    for place, name in enumerate(("slow", "fast")):
        folder = taught / "out/runs" / name
        assert rows["loss"][place] == f"{log_of(folder)[-1]['loss']:.3f}"
        assert rows["test/accuracy"][place] == runs.format_number(
            json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
        )
    assert not FETCHED.search(page)
    differ = page.split("Configuration differences")[1]
    assert re.search(r"<td>train.lr</td><td>0.0001</td><td>0.02</td>", differ) and "tracker" in differ
    assert "train.steps" not in differ
    for svg in re.findall(r'<svg viewBox="0 0 760.*?</svg>', page, re.DOTALL):
        drawn = [re.sub(r'points="[^"]*"', "", line) for line in re.findall(r"<polyline [^>]*linejoin[^>]*>", svg)]
        assert len(drawn) == 2 and len(set(drawn)) == 2, "told apart without colour"
        assert ">slow<" in svg and ">fast<" in svg, "named where they end"


def test_a_run_that_still_trains_and_one_that_is_not_there(taught, tmp_path, capsys, monkeypatch):
    shutil.copytree(
        taught / "out/runs/slow", tmp_path / "out/runs/now", ignore=shutil.ignore_patterns("model", "metrics.json")
    )
    with open(tmp_path / "out/runs/now/log.jsonl", "a") as file:
        file.write('{"step": 26, "lo')
    monkeypatch.chdir(tmp_path)
    compare_main(["out/runs/now", "--page", "here.html"])
    assert "24" in capsys.readouterr().out and "Runs compared: now" in (tmp_path / "here.html").read_text()
    assert error_lines(compare_main, ["out/runs/noww"], capsys, monkeypatch) == [
        "out/runs/noww: not a run, it has no config.yaml (nearest: now)"
    ]


def test_runs_of_one_name_are_called_by_where_they_lie():
    assert run_names([Path("a/runs/x"), Path("b/runs/x"), Path("b/runs/y")]) == ["a/runs/x", "b/runs/x", "b/runs/y"]
    assert run_names([Path("a/runs/x"), Path("a/runs/y")]) == ["x", "y"]


# ---- the curves themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-5, 0.3, 7.0, 4e6])
def test_a_curve_can_be_read_back_from_its_drawing(scale):
    draw = random.Random(0)
    points = [(10 * step, scale * (2 + draw.random())) for step in range(1, 41)]
    svg = charts.line_chart("loss", [charts.Line("a <run>", points), charts.Line("none", [(5, math.nan)])])
    assert html.escape("a <run>") in svg and ">none<" not in svg

    def axis(anchor: str, place: str) -> tuple[float, float]:
        """(value, at) of the first and the last tick of an axis, as a scale: value = first + slope * at."""
        found = [
            (float(number.replace(",", "")), float(at))
            for at, number in re.findall(
                rf'<text class="tick"[^>]* {place}="([^"]*)"[^>]*text-anchor="{anchor}">([-\d.,]+)<', svg
            )
        ]
        (low, start), (high, end) = found[0], found[-1]
        assert len(found) >= 2
        slope = (high - low) / (end - start)
        return low - slope * start, slope

    (zero_x, slope_x), (zero_y, slope_y) = axis("middle", "x"), axis("end", "y")
    line = re.search(r'<polyline points="([^"]*)" [^>]*linejoin', svg).group(1)
    for (step, value), pair in zip(points, line.split(), strict=True):
        x, y = map(float, pair.split(","))
        assert abs(zero_x + slope_x * x - step) < 2
        assert abs(zero_y + slope_y * (y + 4) - value) < 0.02 * scale  # a tick's text stands 4 below its line


def test_ticks_are_round_and_few():
    draw = random.Random(1)
    for _ in range(300):
        low = draw.uniform(-1, 1) * 10 ** draw.uniform(-6, 6)
        high = low + abs(low) * 10 ** draw.uniform(-3, 1)
        values = [value for value, _ in charts.ticks(low, high)]
        assert 2 <= len(values) <= 6 and low - 1e-9 * abs(low) <= values[0] and values[-1] <= high + 1e-9 * abs(high)
        assert len({written for _, written in charts.ticks(low, high)}) == len(values), "all are written differently"


def test_long_curves_are_means_of_stretches():
    points = [(float(step), float(step % 7)) for step in range(1000)]
    kept = charts.downsample(points)
    assert (
        len(kept) == charts.MAX_POINTS and charts.downsample(points[:50]) == points[:50] and charts.downsample([]) == []
    )
    assert math.isclose(sum(y for _, y in kept) / len(kept), sum(y for _, y in points) / len(points), rel_tol=0.02)
    assert all(one[0] < other[0] for one, other in zip(kept, kept[1:]))
