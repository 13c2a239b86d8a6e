"""From a finished run to a hub and back: `python -m publish` over real HTTP, and what others load from there."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, RUN_COMMANDS, finetune_args, pretrain_args, run_module
from hub import HubServer
from huggingface_hub import ModelCard

from engine.cli import run_command
from engine.config.loader import load_config
from finetune.config import Finetune
from pretrain.config import Pretrain
from publish.__main__ import main
from publish.card.card import record_fingerprint
from publish.card.results import confidence_interval
from publish.config import Licenses
from publish.hub.bundle import assemble, find_bundle, redact_paths
from publish.hub.checks import check_files, run_checks

GIVEN = Licenses(corpus="cc-by-4.0", labels="CC BY 3.0")
LICENCES = ["license.corpus=cc-by-4.0", "license.labels=CC BY 3.0"]


@pytest.fixture(scope="module")
def runs(sentiment_files, tmp_path_factory) -> Path:
    """out/runs/enc, an encoder with its head; mod, a model of it; lora, another by adapters."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(RUN_COMMANDS)
    tune = [*finetune_args(sentiment_files), "encoder=out/runs/enc/encoder", "train.steps=6", "task.num_examples=40"]
    words = [
        ("pretrain", [*pretrain_args(sentiment_files), "run=enc", "train.steps=6"]),
        ("finetune", [*tune, "run=mod"]),
        ("finetune", [*tune, "configs/method/lora.yaml", "run=lora", "baselines=false"]),
    ]
    done = run_module("driver.py", json.dumps(words), prefix=(sys.executable,), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(runs, tmp_path, monkeypatch) -> Path:
    """A copy of those runs to spoil."""
    shutil.copytree(runs / "out/runs", tmp_path / "out/runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LOAD = """
import re
from huggingface_hub import ModelCard
for name in ("me/enc", "me/mod"):
    card = ModelCard.load(name)
    card.validate()
    assert card.data.eval_results and card.data.pipeline_tag
    blocks = re.findall(r"```python\\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == (3 if name == "me/enc" else 1), blocks
    for block in blocks:
        found = {}
        exec(block, found)
        if "vectors" in found:
            assert found["vectors"].shape == (2, 32), found["vectors"].shape
"""


def test_published_and_loaded_by_name(runs):
    """An encoder and a model: to the hub, back by name in a process without our code, and their cards' code runs."""
    with HubServer() as hub:
        home = {**hub.environment, "HF_HOME": str(runs / "home")}
        for name in ("enc", "mod"):
            done = run_module("publish", f"run=out/runs/{name}", f"repo=me/{name}", *LICENCES, cwd=runs, **home)
            assert done.returncode == 0 and f"published  {hub.url}/me/{name}" in done.stdout, done.stderr + done.stdout
            assert "paths of this machine shortened" in done.stdout and "says what was recorded" in done.stdout
            made = hub.repositories[f"models/me/{name}"]
            assert len(made.messages) == 2 and len(made.tags) == 1
            record = json.loads(made.files()["record.json"])
            assert str(runs) not in json.dumps(record) and "tmp" not in json.dumps(record["config"])
        (runs / "away").mkdir()
        loaded = run_module("-c", LOAD, prefix=(sys.executable, "-P"), cwd=runs / "away", PYTHONPATH="", **home)
        assert loaded.returncode == 0, loaded.stderr
        assert "positive" in loaded.stdout or "negative" in loaded.stdout


def test_the_card_tells_how_to_repeat_it(place, monkeypatch):
    """The commands in the card give the configurations that the runs had, from the record alone."""
    with assemble(find_bundle("mod"), "me/mod", GIVEN) as folder:
        card = (folder / "README.md").read_text()
        shutil.copy(folder / "record.json", "record.json")
    told = re.search(r"## To repeat it\n\n```\n(.*?)```", card, re.DOTALL)[1].splitlines()
    assert told[0].startswith("hf download me/mod record.json")
    for line in told[1::2]:
        exec(re.fullmatch(r'python -c "(.*)"', line)[1])
    assert [line.split()[2:] for line in told[2::2]] == [["pretrain", "1.yaml"], ["finetune", "2.yaml"]]
    first, second = load_config(Pretrain, ["1.yaml"]), load_config(Finetune, ["2.yaml"])
    assert first.run == "enc" and first.train.steps == 6 and second.encoder == "out/runs/enc/encoder"


def test_the_study_of_the_encoder_is_told(place):
    """Its sentence, its plot and its figures, in the card of the encoder and of a model of it; of no other encoder."""
    record = json.loads((place / "out/runs/enc/encoder/record.json").read_text())
    point = {"num_examples": 16, "mean": 0.75, "low": 0.7, "high": 0.8}
    study = {
        "task": "sentiment",
        "encoder": "out/runs/enc/encoder",
        "metric": "accuracy",
        "sentence": "A gain of 9 points.",
        "variants": {"ours": "with our pretraining", "tfidf": "TF-IDF"},
        "reproduction": {"encoder_record_fingerprint": record_fingerprint(record)},
        "curve": {"ours": [point], "tfidf": [{**point, "mean": 0.66, "low": None}]},
        "contamination": {
            "training_overlap": {"exact": 3, "near": 1},
            "num_test_rows": 50,
            "num_measured_rows": 47,
            "corpora": [],
        },
    }
    (place / "out/studies/s").mkdir(parents=True)
    (place / "out/studies/s/study.json").write_text(json.dumps(study))
    (place / "out/studies/s/study.png").write_bytes(b"PNG")
    for name in ("enc", "mod"):
        with assemble(find_bundle(name), f"me/{name}", GIVEN) as folder:
            told = ModelCard((folder / "README.md").read_text())
            assert (folder / "label-efficiency.png").read_bytes() == b"PNG"
        assert "A gain of 9 points." in told.text and "](label-efficiency.png)" in told.text
        assert "| with our pretraining | 75.0 (70.0 to 80.0) |" in told.text and "| TF-IDF | 66.0 |" in told.text
        assert "3 of the 50 test rows of sentiment also stand in its training rows" in told.text
        last = told.data.eval_results[-1]
        assert (last.dataset_name, last.metric_value) == ("sentiment", 0.75)
        assert last.metric_args == {"labels": 16, "interval_95": [0.7, 0.8], "baselines": {"TF-IDF": 0.66}}
    study["reproduction"]["encoder_record_fingerprint"] = "of another"
    (place / "out/studies/s/study.json").write_text(json.dumps(study))
    assert find_bundle("enc").study_folder is None


def test_intervals():
    """Against scipy's for a share; of a correlation by its own definition; none where the rows' number does not tell."""
    from scipy.stats import binomtest

    exact = binomtest(45, 60).proportion_ci(0.95, "wilson")
    assert confidence_interval("accuracy", 0.75, 60) == pytest.approx((exact.low, exact.high), abs=1e-6)
    low, high = confidence_interval("pearson", 0.5, 103)
    assert np.arctanh(high) - np.arctanh(0.5) == pytest.approx(1.96 / 10, abs=1e-3) == np.arctanh(0.5) - np.arctanh(low)
    assert confidence_interval("f1_macro", 0.5, 100) is None and confidence_interval("accuracy", 1.0, 50)[
        1
    ] == pytest.approx(1)


def told_of(place: Path, name: str, given: Licenses = GIVEN, allow: list[str] = [], adapter: bool = False) -> list[str]:
    with assemble(find_bundle(name, adapter), f"me/{name}", given) as folder:
        return run_checks(folder, place / "out/runs" / name / "sample.json", "me", given, allow)


def test_licences_are_asked_for(place):
    assert [line.partition(", in words")[0] for line in told_of(place, "mod", Licenses())] == [
        "licence of the training text not named (.../corpus.txt): give license.corpus=",
        "licence of the labels not named (.../labels.csv): give license.labels=",
    ]


def test_what_must_not_leave(place, monkeypatch):
    """Each thing put into the folder is told, by its name."""
    folder = place / "out/runs/mod/model"
    (folder / "optimizer.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "log.jsonl").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_name_or_path": "/data/people/x"}))
    (folder / "generation_config.json").write_text('{"token": "hf_' + "a1" * 15 + '"}')
    monkeypatch.setenv("HOME", "/home/jdoe")
    (folder / "special_tokens_map.json").write_text('{"by": "https://hub/a/b", "user": "jdoe"}')
    told = "\n".join(told_of(place, "mod"))
    for part in (
        "optimizer.safetensors: does not belong",
        "log.jsonl: does not belong",
        "training_args.bin: weights that are not",
        "config.json: names /data/people/x",
        "generation_config.json: holds what looks like an access token",
        "special_tokens_map.json: names ",
    ):
        assert part in told, part
    assert told.count("\n") == 5, told


def test_too_large_and_broken_weights(place, monkeypatch):
    monkeypatch.setattr("publish.hub.checks.MAX_FILE_BYTES", 100_000)
    weights = place / "out/runs/mod/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert [line.split(":")[0] for line in told_of(place, "mod")] == ["model.safetensors"] * 2


def test_weights_that_say_something_else(place):
    """Weights that were changed after the run are found by what they say."""
    from safetensors.torch import load_file, save_file

    path = place / "out/runs/mod/model/model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"] += 0.01 * weights["classifier.bias"].new_tensor([1, -1])
    save_file(weights, path, {"format": "pt"})
    (line,) = told_of(place, "mod")
    assert re.match(r"loaded afresh it does not say what was recorded: 0.00\d+ apart on sample.json", line), line


@pytest.mark.slow
def test_adapter_says_what_the_merged_model_said(place):
    assert told_of(place, "lora", adapter=True) == []


def test_adapter_as_an_adapter(place, monkeypatch):
    """With what it was trained beside, and by the name it will have."""
    monkeypatch.setattr("publish.hub.checks.check_loading", lambda folder, sample: [])
    assert told_of(place, "lora", adapter=True) == []
    with assemble(find_bundle("lora", True), "me/lora", GIVEN) as folder:
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert {
            "adapter_config.json",
            "adapter_model.safetensors",
            "base/config.json",
            "base/model.safetensors",
            "tokenizer.json",
        } <= files and "model.safetensors" not in files
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/lora"
        card = (folder / "README.md").read_text()
        assert "library_name: peft" in card and 'PeftModel.from_pretrained(base, "me/lora")' in card


def test_dry_run_needs_no_hub(place, monkeypatch, capsys):
    monkeypatch.setattr("publish.hub.checks.check_loading", lambda folder, sample: [])
    monkeypatch.setattr("publish.hub.upload.upload", None)
    main(["--dry-run", "--revision", "try", "run=enc", "repo=me/enc", *LICENCES[:1]])
    told = capsys.readouterr().out
    assert re.search(r"^ +[\d,]+  model.safetensors$", told, re.M) and "# enc" in told
    assert "license" not in told.split("---")[1], "of a network from nothing nobody has named one"


def test_mistakes_and_failures(place, monkeypatch, capsys):
    """A line or two each, before anything is sent; the last one says how to try again."""
    monkeypatch.setattr("publish.hub.checks.check_loading", lambda folder, sample: [])
    monkeypatch.setenv("HF_TOKEN", "hf_x")

    def refused(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["publish", *words])
        with pytest.raises(SystemExit) as left:
            run_command(main)
        told = capsys.readouterr().err.strip()
        assert left.value.code == 2 and len(told.splitlines()) <= 2, told
        return told

    assert "run: no 'ence' (nearest: enc)" in refused("run=ence", "repo=me/enc")
    assert "repo: " in refused("run=enc", "repo=me/a/b")
    assert "adapter=true is for runs with" in refused("run=mod", "repo=me/mod", "adapter=true")
    unlicensed = refused("run=enc", "repo=me/enc")
    assert "license.corpus=" in unlicensed and "Nothing was sent." in unlicensed
    with HubServer() as hub:
        monkeypatch.setattr("publish.hub.upload.ENDPOINT", hub.url)
        told = refused("run=enc", "repo=me/enc", *LICENCES[:1])
        assert told.startswith(f"{hub.url}: does not know this token") and not hub.repositories
    assert "The run stays as it is" in told
    assert told.endswith("python -m publish run=enc repo=me/enc license.corpus=cc-by-4.0")


def test_paths_are_shortened_and_nothing_else():
    kept = {"a": ["s3://bucket/a/b.csv", "https://x.org/a/b", "texts/a.txt", "../a/b.txt", "and/or", "1/2"], "b": 3}
    assert redact_paths(kept) == (kept, 0)
    assert redact_paths(["/home/x/texts/*.txt", "no /data/y.csv: (~/z/q.txt)", r"C:\Users\x\y.txt"]) == (
        [".../*.txt", "no .../y.csv: (.../q.txt)", ".../y.txt"],
        4,
    )
    assert redact_paths({"/home/x/a.txt": [None]}) == ({".../a.txt": [None]}, 1)
    assert redact_paths("of /people/person/born in /home/x/y", ["/people/*"]) == ("of /people/person/born in .../y", 1)


def test_setfit_takes_the_encoder_as_it_is(runs):
    setfit = pytest.importorskip("setfit")
    model = setfit.SetFitModel.from_pretrained(str(runs / "out/runs/enc/encoder"))
    assert model.model_body.encode(["a film to remember"]).shape == (1, 32)


def test_what_exporting_leaves_beside_a_model_may_go_along(tmp_path):
    """And nothing else may that stands in a folder of that name."""
    files = {}
    for name in ("model.onnx", "model_int8.onnx", "example.py", "export.json", "model.onnx.data"):
        (tmp_path / name).write_bytes(b"x")
        files[f"onnx/{name}"] = tmp_path / name
    (line,) = check_files(files)
    assert line.startswith("onnx/model.onnx.data: ")
