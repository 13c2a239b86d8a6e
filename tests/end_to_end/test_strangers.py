"""An encoder and a data set of a stranger on a hub: nothing in them is executed, and only what is read is fetched."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment, error_lines
from hub import HubServer

from data.encoders import TOKENIZER_FILES, resolve_encoder
from finetune.__main__ import main as finetune
from publish.export.__main__ import main as export

RUN_ALL = """
import importlib, json, sys
from engine.errors import UserError
from publish.hub import checks
checks.check_loading = lambda *_: []  # loads what was uploaded, which takes ten seconds
for module, args in json.loads(sys.argv[1]):
    try:
        importlib.import_module(f"{module}.__main__").main(args)
    except UserError as error:
        print("refused:", module, error)
"""
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CODE = {
    "auto_map": {"AutoConfig": "modeling.C", "AutoModel": "modeling.M", "AutoModelForMaskedLM": "other/code--m.M"},
    "custom_pipelines": {"fill-mask": {"impl": "modeling.P", "pt": ["AutoModel"], "type": "text"}},
    "_name_or_path": "/home/mallory/encoder",
}
TOKENIZER_CODE = {"auto_map": {"AutoTokenizer": ["modeling.T", None]}, "chat_template": "{{ 1/0 }}"}


class WritesCanary:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


@pytest.fixture(scope="module")
def canary(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("canary") / "canary"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, canary) -> Path:
    """A tiny BERT in a folder that also has code, a pickle, and a record that names other models, files and wheels."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("stranger")
    config = BertConfig(vocab_size=30_522, max_position_embeddings=64, **SIZES)
    BertForMaskedLM(config).save_pretrained(folder)
    for name in filter(lambda name: (resolve_encoder("minilm") / name).is_file(), TOKENIZER_FILES):
        shutil.copy(resolve_encoder("minilm") / name, folder / name)
    for name, keys in (("config.json", CODE), ("tokenizer_config.json", TOKENIZER_CODE)):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | keys))
    (folder / "modeling.py").write_text(f"open({str(canary)!r}, 'w').write('imported')")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(WritesCanary(canary)))
    sources = [{"wheel": "evil==1", "sha256": "0" * 64, "member": "a"}, {"files": str(canary)}, {"hub": "other/text"}]
    corpus = {"name": "x", "sources": sources}
    record = {
        **{"kind": "encoder", "run": "x", "init": "other/encoder", "init_record": {}, "steps": 1, "eval": {}},
        **{"config": {"train": {}, "dropout": 0.0, "seed": 0, "objective": {"name": "mlm"}, "corpus": corpus}},
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory, canary, sentiment_files) -> Path:
    """A data set with a loading script next to its rows."""
    folder = tmp_path_factory.mktemp("rows")
    shutil.copy(sentiment_files / "labels.csv", folder / "train.csv")
    (folder / "script.py").write_text(f"open({str(canary)!r}, 'w').write('imported')")
    return folder


def test_every_command_runs_without_executing_anything_of_a_stranger(workspace, encoder, rows, canary):
    tiny = ["max_length=16", "train.precision=float32", "train.steps=2", "train.batch_size=4"]
    corpus = ["corpus.name=s", "corpus.sources=[{hub: other/rows}]", "tokenizer.vocab_size=600", "eval_rows=8"]
    task = ["task.train.files=none", "task.train.hub=other/rows", "task.num_examples=20", "encoder=other/small"]
    study = ["run=s", "study.shots=[2]", "study.seeds=1", "study.variants=[ours, plain]"]
    Path("task.yaml").write_text("task: {name: t, train: {hub: other/rows}}")
    commands = [
        (
            "pretrain",
            ["configs/pretrain/default.yaml", "objective.name=mlm", "init=other/small", "run=p", *tiny, *corpus],
        ),
        (
            "pretrain.evaluate",
            ["encoder=other/small", "task=task.yaml", "num_examples=[20]", "seeds=1", "max_length=16"],
        ),
        ("finetune", ["configs/finetune/your-task.yaml", "method=none", "run=f", *tiny, *task]),
        ("finetune.study", ["configs/finetune/your-task.yaml", "method=none", *study, *tiny, *task]),
        ("data", ["configs/corpus/your-text.yaml", "corpus={name: x, sources: [{hub: other/script}]}"]),
        ("publish", ["run=f", "repo=me/f", "license.labels=mit", "license.base=mit", "license.corpus=mit"]),
    ]
    with HubServer({"models/other/small": encoder, "datasets/other/rows": rows, "datasets/other/script": rows}) as hub:
        variables = environment(**hub.environment, HF_HOME=str(workspace / "home"))
        command = [sys.executable, "-c", RUN_ALL, json.dumps(commands)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        fetched = {
            match[1]
            for request in hub.requests
            if (match := re.match(r"GET .*(?:small|rows)/resolve/\w+/(.+)", request))
        }
        touched = {match[1] for request in hub.requests if (match := re.search(r"(other/\w+|evil)", request))}
        published = hub.repositories["models/me/f"].files()
    assert not canary.exists()
    allowed = {"train.csv", "README.md", "record.json", "config.json", "model.safetensors", *TOKENIZER_FILES}
    assert {"model.safetensors", "train.csv"} <= fetched <= allowed, fetched
    assert touched == {"other/small", "other/rows", "other/script"}
    reason = "Dataset scripts are no longer supported, but found script.py"
    assert f"refused: data other/script: cannot be loaded from the hub ({reason})" in done.stdout
    assert done.stdout.count("refused: ") == 1
    assert "other/encoder, the initial weights" in done.stdout, "the record's initial weights are not fetched"
    assert "note: config.json: left out auto_map, custom_pipelines of the original" in done.stdout
    for folder in ("out/runs/p/encoder", "out/runs/f/model"):
        for path in Path(folder).glob("*config.json"):
            assert not {*CODE, *TOKENIZER_CODE} & json.loads(path.read_text()).keys(), path
    assert not any(key.encode() in published["config.json"] for key in CODE)


def test_export_loads_the_weights_of_a_stranger_and_nothing_else(encoder, canary):
    onnx = pytest.importorskip("publish.export.onnx")
    assert onnx.load_model(encoder).problem_type.name == "embedding" and not canary.exists()


@pytest.mark.parametrize("command", ["finetune", "export"])
def test_a_model_that_needs_its_own_code_is_refused_without_a_question(
    workspace, encoder, canary, sentiment_files, command, capsys, monkeypatch
):
    folder = shutil.copytree(encoder, workspace / "strange")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"model_type": "strange"}))
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(prompt))
    args = {
        "finetune": [
            "configs/finetune/your-task.yaml",
            "method=none",
            f"task.train.files={sentiment_files}/labels.csv",
            "encoder=strange",
        ],
        "export": ["run=strange"],
    }[command]
    lines = error_lines({"finetune": finetune, "export": export}[command], args, capsys, monkeypatch)
    assert len(lines) == 1 and "custom code" in lines[0] and not canary.exists()


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("adapter_config.json", {"base_model_name_or_path": "other/base"}, "has an adapter_config.json"),
        (
            "config.json",
            {"model_type": "bert", "attn_implementation": "other/kernel"},
            "other/kernel, which is never run",
        ),
    ],
)
def test_a_folder_that_names_other_weights_or_kernels_is_refused(
    workspace, encoder, name, content, expected, capsys, monkeypatch
):
    folder = shutil.copytree(encoder, workspace / "strange")
    (folder / name).write_text(json.dumps(content))
    (line,) = error_lines(export, ["run=strange"], capsys, monkeypatch)
    assert expected in line


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_run_on_local_files_contacts_no_address(workspace, encoder, sentiment_files):
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", "connections"]
    command = [
        *trace,
        sys.executable,
        "-m",
        "finetune",
        "configs/finetune/your-task.yaml",
        "method=none",
        f"encoder={encoder}",
    ]
    options = [f"task.train.files={sentiment_files}/labels.csv", "max_length=16", "train.steps=1", "baselines=false"]
    variables = {key: value for key, value in environment().items() if not key.startswith("HF_")}
    done = subprocess.run([*command, *options, "run=x", "task.num_examples=20"], env=variables, capture_output=True)
    if b"ptrace" in done.stderr or b"PTRACE" in done.stderr:
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr.decode()
    assert not re.findall(r".*AF_INET.*", Path("connections").read_text())
