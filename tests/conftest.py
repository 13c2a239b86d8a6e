"""What the tests share: a working folder with the built-in text in reach, and the commands run as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A network that trains in a second, on real text.
TINY = ["init=none", "length=32", "short_rows=0", "tokenizer.vocab_size=512", "model.layers=2", "model.hidden_size=32",
        "model.attention_heads=2", "model.intermediate_size=32", "model.positions=64", "evaluation_rows=8",
        "train.batch_size=8", "train.precision=float32"]


LONG = ("test_whole_path.py", "test_publish.py", "test_study.py", "test_fewshot.py", "test_adapt.py", "test_heads.py",
        "test_entities.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, where downloads are shared with the repository's."""
    cache = ROOT / "out" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cache").symlink_to(cache)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    """For a process that imports the project from elsewhere."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def run(*words: str, prefix: tuple[str, ...] = (sys.executable, "-m"), cwd: Path | None = None,
        **more: str) -> subprocess.CompletedProcess:
    """`python -m WORDS...` as a process of its own."""
    return subprocess.run([*prefix, *words], capture_output=True, text=True, cwd=cwd, env=environment(**more), timeout=300)


def told(main: Callable[[list[str]], None], words: list[str], capsys, monkeypatch) -> list[str]:
    """The lines that a command ends with on a mistake, with exit code 2; in this process, which spares ten seconds."""
    from engine.command import command

    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        command(main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and "Traceback" not in "".join(lines), lines
    return lines


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """Real text: 400 labelled sentences of the sentiment task as a csv (text,label), and 300 more as a .txt file."""
    import csv

    from data.labelled import read
    from engine.config import load
    from finetune.config import Finetune

    folder = tmp_path_factory.mktemp("text")
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        rows = read(load(Finetune, ["configs/finetune/sentiment.yaml"]).task)
    finally:
        os.chdir(here)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for example in rows["train"][:200] + rows["train"][-200:]:
            writer.writerow([example.texts[0], example.label])
    (folder / "corpus.txt").write_text("\n\n".join(e.texts[0] for e in rows["train"][200:500]), encoding="utf-8")
    return folder
