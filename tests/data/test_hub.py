"""The hub over real HTTP: a dataset as corpus and as task, and an encoder by name."""

from __future__ import annotations

import json
import shutil
import sys

from helpers import TINY_ARGS, run_module
from hub import HubServer

from data.encoders import resolve_encoder

# Runs commands one after the other; the last line is [[exit code, errors], ...].
RUN_ALL = """
import contextlib, importlib, io, json, sys
from engine.cli import run_command
results = []
for module, *args in json.loads(sys.argv[1]):
    sys.argv, code = [module, *args], 0
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            run_command(importlib.import_module(f"{module}.__main__").main)
        except SystemExit as stop:
            code = stop.code
    results.append([code, errors.getvalue()])
print(json.dumps(results))
"""


def test_text_labels_and_encoder_from_a_hub(workspace, sentiment_files):
    """In one new process, as the libraries read the hub's address when they are imported."""
    (workspace / "rows").mkdir()
    shutil.copy(sentiment_files / "labels.csv", workspace / "rows" / "train.csv")
    encoder = shutil.copytree(resolve_encoder("minilm"), workspace / "encoder")
    pretrain = ["pretrain", "configs/pretrain/scratch.yaml", *TINY_ARGS, "run=enc", "corpus.name=hub", "train.steps=2"]
    finetune = ["finetune", "configs/finetune/your-task.yaml", "method=none", "train.steps=2", "task.num_examples=20"]
    finetune += ["max_length=16", "train.precision=float32"]
    hub_rows = ["task.train.files=none", "task.train.hub=me/rows"]
    commands = [
        [*pretrain, "corpus.sources=[{hub: me/rows}]"],
        [*finetune, "run=no", "task.train.files=none", "task.train.hub=me/row", "encoder=me/small"],
        [*finetune, "run=no", f"task.train={{files: {sentiment_files}/labels.csv}}", "encoder=me/smal"],
        [*finetune, "run=x", *hub_rows, "encoder=me/small", "baselines=false"],
    ]
    with HubServer({"datasets/me/rows": workspace / "rows", "models/me/small": encoder}) as hub:
        hub_environment = {**hub.environment, "HF_HOME": str(workspace / "home")}
        done = run_module("-c", RUN_ALL, json.dumps(commands), prefix=(sys.executable,), **hub_environment)
    assert done.returncode == 0, done.stderr
    (pretrained, no_rows, no_encoder, finetuned) = json.loads(done.stdout.splitlines()[-1])
    assert pretrained[0] == 0, pretrained[1]
    record = json.loads((workspace / "out/runs/enc/encoder/record.json").read_text())
    assert sum(record["shards_manifest"][split]["documents"] for split in ("train", "held_out")) == 400
    for (code, errors), start in ((no_rows, "me/row: "), (no_encoder, "me/smal: not a folder or built-in encoder")):
        assert code == 2 and len(errors.strip().splitlines()) <= 2 and errors.startswith(start), errors
    assert not (workspace / "out/runs/no").exists()
    assert finetuned[0] == 0, finetuned[1]
    assert (workspace / "out/runs/x/model/config.json").is_file()


READ = """
from data.encoders import resolve_encoder
from data.sources.source import Source, iter_rows
print(len(list(iter_rows(Source(hub="me/rows")))), (resolve_encoder("me/small") / "config.json").is_file())
"""


def test_what_was_read_once_is_read_without_the_hub(workspace, sentiment_files):
    (workspace / "rows").mkdir()
    shutil.copy(sentiment_files / "labels.csv", workspace / "rows" / "train.csv")
    (workspace / "encoder").mkdir()
    for name in ("config.json", "model.safetensors"):
        (workspace / "encoder" / name).write_text("{}")
    options = {"prefix": (sys.executable, "-c"), "HF_HOME": str(workspace / "home")}
    with HubServer({"datasets/me/rows": workspace / "rows", "models/me/small": workspace / "encoder"}) as hub:
        assert run_module(READ, **options, **hub.environment).stdout == "400 True\n"
    for offline in "01":
        done = run_module(READ, **options, **hub.environment | {"HF_HUB_OFFLINE": offline})
        assert done.stdout == "400 True\n", done.stderr
        assert "note: me/rows: the hub cannot be reached; using revision" in done.stderr


def test_an_unreachable_hub_is_reported(workspace):
    done = run_module(
        "pretrain",
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "run=x",
        "corpus.name=hub",
        "train.steps=2",
        "corpus.sources=[{hub: me/rows}]",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="0",
        HF_HOME=str(workspace / "home"),
    )
    assert done.returncode == 2 and done.stderr.startswith("me/rows: cannot be loaded from the hub"), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2 and not (workspace / "out/runs").exists()
