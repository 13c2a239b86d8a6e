"""Publishing a finished run: the checks, the card, the upload over real HTTP, and loading from the hub."""

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

from engine.cli import flags_to_keys, run_command
from engine.config.loader import load_config
from finetune.config import Finetune
from pretrain.config import Pretrain
from publish.__main__ import main
from publish.card.card import describe_task, record_fingerprint
from publish.card.results import confidence_interval, eval_results
from publish.compare import Compare
from publish.config import Licenses, Publish
from publish.hub.bundle import assemble, find_bundle, redact_paths
from publish.hub.checks import check_files, check_secrets, run_checks

LICENSES = Licenses(corpus="cc-by-4.0", labels="CC BY 3.0")
LICENSE_ARGS = ["license.corpus=cc-by-4.0", "license.labels=CC BY 3.0"]


@pytest.fixture(scope="module")
def runs(sentiment_files, tmp_path_factory) -> Path:
    """out/runs/enc, an encoder with its MLM head; mod, a model fine-tuned from it; lora, another one with adapters."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(RUN_COMMANDS)
    tune = [*finetune_args(sentiment_files), "encoder=out/runs/enc/encoder", "train.steps=6", "task.num_examples=40"]
    commands = [
        ("pretrain", [*pretrain_args(sentiment_files), "run=enc", "train.steps=6"]),
        ("finetune", [*tune, "run=mod"]),
        ("finetune", [*tune, "configs/method/lora.yaml", "run=lora", "baselines=false"]),
    ]
    done = run_module("driver.py", json.dumps(commands), prefix=(sys.executable,), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def runs_copy(runs, tmp_path, monkeypatch) -> Path:
    """A copy of the runs that a test may damage."""
    shutil.copytree(runs / "out/runs", tmp_path / "out/runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def skip_loading(monkeypatch) -> None:
    """Leave out the check that takes seconds."""
    monkeypatch.setattr("publish.hub.checks.check_loading", lambda folder, sample_path: [])


def find_problems(folder: Path, name: str, licenses: Licenses = LICENSES, is_adapter: bool = False) -> list[str]:
    with assemble(find_bundle(name, is_adapter), f"me/{name}", licenses) as bundle_folder:
        return run_checks(bundle_folder, folder / "out/runs" / name / "sample.json", "me", licenses, [])


# ---- upload ---------------------------------------------------------------------------------------------------------


PUBLISH = """
import json, sys
from publish.__main__ import main
for args in json.loads(sys.argv[1]):
    main(args)
"""
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
        variables = {}
        exec(block, variables)
        if "vectors" in variables:
            assert variables["vectors"].shape == (2, 32), variables["vectors"].shape
"""


def test_published_runs_load_by_name(runs):
    """An encoder and a model load by name in a process without this project, and the code of their cards runs."""
    with HubServer() as hub:
        environment = {**hub.environment, "HF_HOME": str(runs / "home")}
        names = ("enc", "mod")
        commands = [[f"run=out/runs/{name}", f"repo=me/{name}", *LICENSE_ARGS] for name in names]
        done = run_module("-c", PUBLISH, json.dumps(commands), prefix=(sys.executable,), cwd=runs, **environment)
        assert done.returncode == 0, done.stderr + done.stdout
        assert len(re.findall(r"record.json: shortened \d+ local paths", done.stdout)) == 2
        assert done.stdout.count("reproduces the recorded outputs") == 2
        for name in names:
            assert f"published  {hub.url}/me/{name}" in done.stdout
            repository = hub.repositories[f"models/me/{name}"]
            assert len(repository.messages) == 2 and len(repository.tags) == 1
            record = json.loads(repository.files()["record.json"])
            assert str(runs) not in json.dumps(record)
            assert "tmp" not in json.dumps(record["config"])
        (runs / "elsewhere").mkdir()
        options = {"prefix": (sys.executable, "-P"), "cwd": runs / "elsewhere", "PYTHONPATH": "", **environment}
        loaded = run_module("-c", LOAD, **options)
        assert loaded.returncode == 0, loaded.stderr
        assert "positive" in loaded.stdout or "negative" in loaded.stdout


def test_dry_run_needs_no_hub(runs_copy, skip_loading, monkeypatch, capsys):
    monkeypatch.setattr("publish.hub.upload.upload", None)
    main(["--dry-run", "--revision", "try", "run=enc", "repo=me/enc", *LICENSE_ARGS[:1]])
    output = capsys.readouterr().out
    assert re.search(r"^ +[\d,]+  model.safetensors$", output, re.M)
    assert "# enc" in output
    assert "license" not in output.split("---")[1], "an encoder trained from scratch has no license by default"


@pytest.mark.parametrize(
    ("schema", "positional", "args", "expected"),
    [
        (Publish, None, ["--dry-run", "--revision", "try"], ["dry_run=true", "revision=try"]),
        (Publish, None, ["--private", "run=x"], ["private=true", "run=x"]),
        (Publish, None, ["--private", "false", "--adapter"], ["private=false", "adapter=true"]),
        (Publish, None, ["--license.corpus", "cc-by-4.0"], ["license.corpus=cc-by-4.0"]),
        (Publish, None, ["stray", "--revision"], ["stray", "--revision"]),
        (Pretrain, None, ["a.yaml", "--dry-run"], ["a.yaml", "train.dry_run=true"]),
        (Pretrain, None, ["--train.batch-size", "8", "--train.compile"], ["train.batch_size=8", "train.compile=true"]),
        (Compare, "runs", ["a", "--page=a-b.html", "it's"], ["page=a-b.html", "runs=['a', 'it''s']"]),
    ],
)
def test_flags_become_keys(schema, positional, args, expected):
    assert flags_to_keys(schema, args, positional) == expected


def test_errors(runs_copy, skip_loading, monkeypatch, capsys):
    """Errors are one or two lines, before anything is uploaded; after a failed upload, the last one is how to retry."""
    monkeypatch.setenv("HF_TOKEN", "hf_x")

    def error(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["publish", *args])
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        message = capsys.readouterr().err.strip()
        assert stop.value.code == 2, message
        assert len(message.splitlines()) <= 2, message
        return message

    assert "run: no 'ence' (nearest: enc)" in error("run=ence", "repo=me/enc")
    assert "repo: " in error("run=enc", "repo=me/a/b")
    assert "adapter=true is for runs with" in error("run=mod", "repo=me/mod", "adapter=true")
    unlicensed = error("run=enc", "repo=me/enc")
    assert "license.corpus=" in unlicensed and "Nothing was uploaded." in unlicensed
    with HubServer() as hub:
        monkeypatch.setattr("publish.hub.upload.ENDPOINT", hub.url)
        message = error("run=enc", "repo=me/enc", *LICENSE_ARGS[:1])
        assert message.startswith(f"{hub.url}: unknown token")
        assert not hub.repositories
    assert "The run is unchanged" in message
    assert message.endswith("python -m publish run=enc repo=me/enc license.corpus=cc-by-4.0")
    (runs_copy / "out/runs/mod/model/record.json").write_text('{"hello": 1}')
    assert "out/runs/mod/model: not made by Headstart" in error("run=mod", "repo=me/mod")


# ---- card -----------------------------------------------------------------------------------------------------------


def test_card_commands_reproduce_the_configurations(runs_copy):
    """The commands in the card recover the configurations of all stages from the record alone."""
    with assemble(find_bundle("mod"), "me/mod", LICENSES) as folder:
        card = (folder / "README.md").read_text()
        shutil.copy(folder / "record.json", "record.json")
    commands = re.search(r"## Reproduction\n.*?```\n(.*?)```", card, re.DOTALL)[1].splitlines()
    assert commands[0].startswith("hf download me/mod record.json")
    for line in commands[1::2]:
        exec(re.fullmatch(r'python -c "(.*)"', line)[1])
    assert [line.split()[2:] for line in commands[2::2]] == [["pretrain", "1.yaml"], ["finetune", "2.yaml"]]
    first, second = load_config(Pretrain, ["1.yaml"]), load_config(Finetune, ["2.yaml"])
    assert first.run == "enc" and first.train.steps == 6
    assert second.encoder == "out/runs/enc/encoder"


def test_card_includes_the_study_of_the_encoder(runs_copy):
    """Cards of the encoder and of a model fine-tuned from it show the study; those of other encoders do not."""
    record = json.loads((runs_copy / "out/runs/enc/encoder/record.json").read_text())
    point = {"num_examples": 16, "mean": 0.75, "low": 0.7, "high": 0.8}
    study = {
        "task": "sentiment",
        "encoder": "out/runs/enc/encoder",
        "metric": "accuracy",
        "sentence": "A gain of 9 points.",
        "variants": {"ours": "with pretraining", "tfidf": "TF-IDF"},
        "reproduction": {"encoder_record_fingerprint": record_fingerprint(record)},
        "curve": {"ours": [point], "tfidf": [{**point, "mean": 0.66, "low": None}]},
        "contamination": {
            "training_overlap": {"exact": 3, "near": 1},
            "num_test_rows": 50,
            "num_measured_rows": 47,
            "corpora": [],
        },
    }
    (runs_copy / "out/studies/s").mkdir(parents=True)
    (runs_copy / "out/studies/s/study.json").write_text(json.dumps(study))
    (runs_copy / "out/studies/s/study.png").write_bytes(b"PNG")
    for name in ("enc", "mod"):
        with assemble(find_bundle(name), f"me/{name}", LICENSES) as folder:
            card = ModelCard((folder / "README.md").read_text())
            assert (folder / "label-efficiency.png").read_bytes() == b"PNG"
        assert "A gain of 9 points." in card.text
        assert "](label-efficiency.png)" in card.text
        assert "| with pretraining | 75.0 (70.0 to 80.0) |" in card.text
        assert "| TF-IDF | 66.0 |" in card.text
        assert "3 of the 50 test examples of sentiment also occur in its training set" in " ".join(card.text.split())
        result = card.data.eval_results[-1]
        assert (result.dataset_name, result.metric_value) == ("sentiment", 0.75)
        assert result.metric_args == {"labels": 16, "interval_95": [0.7, 0.8], "baselines": {"TF-IDF": 0.66}}
    study["reproduction"]["encoder_record_fingerprint"] = "another encoder"
    (runs_copy / "out/studies/s/study.json").write_text(json.dumps(study))
    assert find_bundle("enc").study_folder is None


def test_the_card_of_a_model_without_validation_rows_promises_no_thresholds():
    record = {"kind": "model", "problem_type": "multi_label_classification", "label_names": ["long", "odd"]}
    card = describe_task(record)
    assert "A label applies from a probability of 0.5 on or, if `config.json` holds `thresholds`, from its own" in card


@pytest.mark.parametrize(("modality", "task"), [("text", "text-classification"), ("images", "image-classification")])
def test_the_results_of_a_study_are_of_the_modality_of_its_encoder(modality, task):
    record = {"kind": "encoder", "modality": modality, "run": "r", "config": {"eval_rows": 8}, "eval": {}}
    point = {"num_examples": 16, "mean": 0.75, "low": None, "high": None}
    study = {"task": "t", "metric": "accuracy", "variants": {"ours": "o"}, "curve": {"ours": [point]}}
    assert [result.task_type for result in eval_results(record, None, study)] == [task]


def test_confidence_intervals():
    """A share against scipy, a correlation by its definition; none where the number of rows does not determine it."""
    from scipy.stats import binomtest

    exact = binomtest(45, 60).proportion_ci(0.95, "wilson")
    assert confidence_interval("accuracy", 0.75, 60) == pytest.approx((exact.low, exact.high), abs=1e-6)
    low, high = np.arctanh(confidence_interval("pearson", 0.5, 103))
    assert high - np.arctanh(0.5) == pytest.approx(1.96 / 10, abs=1e-3)
    assert np.arctanh(0.5) - low == pytest.approx(1.96 / 10, abs=1e-3)
    assert confidence_interval("f1_macro", 0.5, 100) is None
    assert confidence_interval("accuracy", 1.0, 50)[1] == pytest.approx(1)


# ---- checks ---------------------------------------------------------------------------------------------------------


def test_missing_licenses_are_reported(runs_copy):
    assert [line.partition(", such as")[0] for line in find_problems(runs_copy, "mod", Licenses())] == [
        "license of the training text not specified (.../corpus.txt): set license.corpus=",
        "license of the labels not specified (.../labels.csv): set license.labels=",
    ]


def test_unexpected_files_and_secrets_are_reported(runs_copy, monkeypatch):
    """Each problem put into the folder is reported with the file's name."""
    folder = runs_copy / "out/runs/mod/model"
    (folder / "optimizer.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "log.jsonl").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_name_or_path": "/data/people/x"}))
    (folder / "generation_config.json").write_text('{"token": "hf_' + "a1" * 15 + '"}')
    monkeypatch.setenv("HOME", "/home/jdoe")
    (folder / "special_tokens_map.json").write_text('{"by": "https://hub/a/b", "user": "jdoe"}')
    problems = find_problems(runs_copy, "mod")
    for part in (
        "optimizer.safetensors: does not belong",
        "log.jsonl: does not belong",
        "training_args.bin: weights that are not",
        "config.json: contains /data/people/x",
        "generation_config.json: contains what looks like an access token",
        "special_tokens_map.json: contains jdoe",
    ):
        assert any(part in line for line in problems), (part, problems)
    assert len(problems) == 6, problems


@pytest.mark.parametrize(
    "secret, kind",
    [
        *((start + "a1B2" * 16, "an access token") for start in ("ghp_", "github_pat_", "glpat-", "sk-proj-", "xoxb-")),
        *((start, "an access token") for start in ("AKIA" + "A1" * 8, "AIza" + "a1B2-" * 7, "npm_" + "a1" * 18)),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0." + "a1" * 20, "an access token"),
        ("-----BEGIN RSA PRIVATE KEY-----", "an access token or a private key"),
        ("AccountKey=a1==", "an access token"),
        ("https://alice:pw@files.example/rows.csv", "an address with a password or a signature"),
        ("https://files.example/rows.csv?sv=1&sig=a1", "an address with a password or a signature"),
    ],
)
def test_secrets_are_found_in_texts_and_graphs(tmp_path, secret, kind):
    onnx = pytest.importorskip("onnx")
    (tmp_path / "config.json").write_text(json.dumps({"by": f"see {secret} there"}))
    graph = onnx.helper.make_graph([], "g", [], [], doc_string=f"see {secret} there")
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    files = {path.name: path for path in tmp_path.iterdir()}
    problems = list(check_secrets(files, set()))
    assert len(problems) == 2 and all(
        f"contains {'what looks like ' * ('access' in kind)}{kind}" in each for each in problems
    )


def test_paths_are_found_in_graphs_and_other_files_are_no_graphs(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["a"], ["b"], doc_string='File "/home/jdoe/model.py", line 3')
    graph = onnx.helper.make_graph([node], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    (tmp_path / "other.onnx").write_bytes(b"\x0f" * 50)
    lines = list(check_secrets({path.name: path for path in sorted(tmp_path.iterdir())}, set()))
    assert "model.onnx: contains /home/jdoe/model.py" in lines[0] and "other.onnx: cannot be read" in lines[1]


def test_large_and_broken_weights_are_reported(runs_copy, monkeypatch):
    monkeypatch.setattr("publish.hub.checks.MAX_FILE_BYTES", 100_000)
    weights = runs_copy / "out/runs/mod/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert [line.split(":")[0] for line in find_problems(runs_copy, "mod")] == ["model.safetensors"] * 2


def test_weights_changed_after_the_run_are_reported(runs_copy):
    from safetensors.torch import load_file, save_file

    path = runs_copy / "out/runs/mod/model/model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"] += 0.01 * weights["classifier.bias"].new_tensor([1, -1])
    save_file(weights, path, {"format": "pt"})
    (line,) = find_problems(runs_copy, "mod")
    assert re.match(r"does not reproduce the recorded outputs: off by 0.00\d+ on sample.json", line), line


@pytest.mark.slow
def test_adapter_reproduces_outputs_of_the_merged_model(runs_copy):
    assert find_problems(runs_copy, "lora", is_adapter=True) == []


def test_adapter_is_published_with_its_base_model(runs_copy, skip_loading):
    assert find_problems(runs_copy, "lora", is_adapter=True) == []
    with assemble(find_bundle("lora", True), "me/lora", LICENSES) as folder:
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files >= {
            "adapter_config.json",
            "adapter_model.safetensors",
            "base/config.json",
            "base/model.safetensors",
            "tokenizer.json",
        }
        assert "model.safetensors" not in files
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/lora"
        card = (folder / "README.md").read_text()
        assert "library_name: peft" in card
        assert 'PeftModel.from_pretrained(base, "me/lora")' in card


def test_exported_graphs_may_be_published(tmp_path):
    """The files that export writes are allowed in onnx/, others are not."""
    files = {}
    for name in ("model.onnx", "model_int8.onnx", "example.py", "export.json", "model.onnx.data"):
        (tmp_path / name).write_bytes(b"x")
        files[f"onnx/{name}"] = tmp_path / name
    (line,) = check_files(files)
    assert line.startswith("onnx/model.onnx.data: ")


def test_only_absolute_paths_are_shortened():
    value = {"a": ["s3://bucket/a/b.csv", "https://x.org/a/b", "texts/a.txt", "../a/b.txt", "and/or", "1/2"], "b": 3}
    assert redact_paths(value) == (value, 0)
    assert redact_paths(["/home/x/texts/*.txt", "no /data/y.csv: (~/z/q.txt)", r"C:\Users\x\y.txt"]) == (
        [".../*.txt", "no .../y.csv: (.../q.txt)", ".../y.txt"],
        4,
    )
    assert redact_paths({"/home/x/a.txt": [None]}) == ({".../a.txt": [None]}, 1)
    both = {"/home/x/a.txt": None, "/home/y/a.txt": "mit"}
    assert redact_paths(both) == ({".../a.txt": None, ".../a.txt (2)": "mit"}, 2)
    assert redact_paths("of /people/person/born in /home/x/y", ["/people/*"]) == ("of /people/person/born in .../y", 1)


def test_setfit_loads_the_encoder(runs):
    setfit = pytest.importorskip("setfit")
    model = setfit.SetFitModel.from_pretrained(str(runs / "out/runs/enc/encoder"))
    assert model.model_body.encode(["a film to remember"]).shape == (1, 32)
