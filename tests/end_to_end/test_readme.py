"""The commands, configurations and folders of README.md and the pages in docs/ work and exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
from helpers import ROOT, run_module

from compare.config import Compare as CompareObjectives
from data.config import Prepare
from data.shortcut import expand_labels, expand_text
from engine.cli import parse_config
from engine.config.loader import load_config
from explore import __main__ as explore_main
from explore.config import Explore
from finetune.config import Finetune
from finetune.study.config import Study
from label import __main__ as label_main
from label.config import Label
from predict.__main__ import quote_texts
from predict.config import Predict
from pretrain.config import Pretrain
from pretrain.evaluate.config import Evaluate
from publish.compare import Compare
from publish.config import Publish
from publish.export.__main__ import Export

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
SCHEMAS = {
    "data": Prepare,
    "pretrain": Pretrain,
    "pretrain.evaluate": Evaluate,
    "finetune": Finetune,
    "finetune.study": Study,
    "compare": CompareObjectives,
    "explore": Explore,
    "label": Label,
    "predict": Predict,
    "publish": Publish,
    "publish.compare": Compare,
    "publish.export": Export,
}
SHORTCUTS = {"pretrain": expand_text, "finetune": expand_labels}
EXPANSIONS = {"explore": explore_main.expand, "label": label_main.expand}
POSITIONAL = {"publish.compare": "runs", "publish.export": "run"}
"""Module -> key of its positional arguments."""


def make_commands(text: str) -> list[str]:
    return list(
        dict.fromkeys(line[2:].split("#")[0].strip() for line in text.splitlines() if line.startswith("$ make"))
    )


COMMANDS = make_commands(PAGES)
OWN_DATA = {
    stage: re.search(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)[1]
    for stage, page in {"pretrain": "docs/pretraining.md", "finetune": "README.md"}.items()
}
TREE = README.split("## How it is built")[1].split("```")[1]
FOLDERS = re.findall(r"^(\w+)/", TREE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_make_commands_parse(command, tmp_path, monkeypatch):
    """`make -n`, as if the setup was done, prints a command; the real parser accepts its arguments."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("texts", "notes", "labels", "out/runs/mine", "out/runs/texts"):
        (tmp_path / name).mkdir(parents=True)
    for name, content in {
        "texts/a.txt": "a",
        "notes/a.txt": "a",
        "labels.csv": "text,label,v1,v2\na,b,c,d\n",
        "posts.csv": "body\na\n",
        "texts.csv": "text\na\n",
        "labels/texts.csv": "text,label,role,time,seconds,answer\na,b,train,2026-01-01T00:00:00Z,1,label\n",
    }.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    args = [*shlex.split(command), "-n", "-o", ".venv/ready"]
    result = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    line = shlex.split(result.stdout.strip().splitlines()[-1])
    if "-m" in line and "pytest" not in line:
        module = line[line.index("-m") + 1]
        args = line[line.index("-m") + 2 :]
        if module in EXPANSIONS:
            assert parse_config(SCHEMAS[module], EXPANSIONS[module](args), module, "")
            return
        args = quote_texts(args) if module == "predict" else args
        shortcut = SHORTCUTS[module](args) if module in SHORTCUTS else None
        assert parse_config(
            SCHEMAS[module], shortcut.list_args() if shortcut else args, module, "", POSITIONAL.get(module)
        )
        assert ("LABELS=" in command or "TEXT=" in command) == (shortcut is not None)


def test_make_explore_reads_the_default_corpus_only_if_nothing_else_is_given():
    for given, has_corpus in ((" ", True), ("MODEL=out/runs/mine", False), ("MODEL=mine CORPUS=reviews", True)):
        args = ["make", "explore", *given.split(), "-n", "-o", ".venv/ready"]
        shown = subprocess.run(args, cwd=ROOT, capture_output=True, text=True).stdout
        assert ("corpus=reviews" in shown) == has_corpus, shown


def test_every_target_of_the_makefile_with_a_schema_is_shown():
    shown = {command.split()[1] for command in COMMANDS}
    assert shown >= {
        "data",
        "pretrain",
        "finetune",
        "predict",
        "study",
        "compare-objectives",
        "evaluate",
        "publish",
        "export",
        "compare",
        "test",
    }


def test_the_quickstart_shows_both_commands_with_their_output():
    assert make_commands(README)[:2] == ["make pretrain", "make finetune TASK=sentiment"] and "make test" in COMMANDS
    assert "retrieval accuracy@1, held-out second halves (" in README
    assert "macro F1" in README and "OUTPUT" not in README


def test_python_commands_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"-m (data|pretrain|finetune) (configs/[^`\n)]*)", PAGES)
    assert len(commands) == 3
    for module, args in commands:
        load_config(SCHEMAS[module], args.split())


@pytest.mark.parametrize("stage", OWN_DATA)
def test_configurations_for_your_own_data_have_ten_lines_and_run(stage, sentiment_files, workspace):
    text = OWN_DATA[stage]
    assert len(text.strip().splitlines()) <= 10
    (workspace / "configs").unlink()
    (workspace / "configs").mkdir()
    for folder in ("corpus", "pretrain", "finetune", "method", "quality"):
        (workspace / "configs" / folder).mkdir()
        for path in (ROOT / "configs" / folder).glob("*.yaml"):
            (workspace / "configs" / folder / path.name).write_text(path.read_text())
    (workspace / "configs" / stage / "mine.yaml").write_text(text)
    (workspace / "texts").mkdir()
    (workspace / "texts" / "a.txt").write_text((sentiment_files / "corpus.txt").read_text())
    (workspace / "labels.csv").write_text((sentiment_files / "labels.csv").read_text())
    done = run_module(
        stage,
        f"configs/{stage}/mine.yaml",
        "train.steps=2",
        "train.batch_size=4",
        *(["eval_rows=4"] if stage == "pretrain" else ["encoder=minilm", "baselines=false", "task.num_examples=8"]),
    )
    assert done.returncode == 0, done.stderr


def test_the_layout_lists_exactly_the_existing_folders():
    listed = set(FOLDERS)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    existing = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert existing <= listed and all((ROOT / name).is_dir() for name in listed - {"out"})


def test_help_lists_the_keys():
    for module, keys in (
        ("pretrain", ["objective.mask_rate", "train.lr", "init"]),
        ("finetune", ["task.num_examples", "layers.lr_decay", "encoder", "train.epochs"]),
    ):
        result = run_module(module, "--help", cwd=ROOT)
        assert result.returncode == 0
        assert all(re.search(rf"^  {re.escape(key)} ", result.stdout, re.M) for key in keys), result.stdout
