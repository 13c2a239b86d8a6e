"""Shared fixtures: a working folder with the built-in data, real text files, and an accelerator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import ROOT, check_in_this_process

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW_FILES = (
    "test_commands.py",
    "test_processes.py",
    "test_image_finetuning.py",
    "test_image_pretraining.py",
    "test_publish.py",
    "test_few_labels.py",
    "test_methods.py",
    "test_study.py",
    "test_strangers.py",
    "test_hub.py",
    "test_corpus.py",
    "test_anomaly.py",
    "test_heads.py",
    "test_problem_type.py",
    "test_modality.py",
    "test_token_classification.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no process starts one of them at the end."""
    items.sort(key=lambda item: SLOW_FILES.index(item.path.name) if item.path.name in SLOW_FILES else len(SLOW_FILES))


@pytest.fixture(autouse=True)
def load_check_in_this_process(request, monkeypatch) -> None:
    """Verify saved folders in this process, which saves seconds; a test with the marker fresh_process does not."""
    from engine.models import verify

    if not request.node.get_closest_marker("fresh_process"):
        monkeypatch.setattr(verify, "run_load_check", check_in_this_process)


@pytest.fixture(autouse=True)
def warn_again() -> None:
    """Forget the warnings that are shown once per process."""
    from engine.log import warned

    warned.clear()


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """Change to an empty folder that shares the repository's download cache and configs."""
    cache = ROOT / "out" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cache").symlink_to(cache)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def sentiment_files(tmp_path_factory) -> Path:
    """Write 400 labeled sentences of the sentiment task as a CSV (text,label), and 300 more as a .txt file."""
    import csv

    from data.tasks.task import read_task
    from engine.config.loader import load_config
    from finetune.config import Finetune

    folder = tmp_path_factory.mktemp("text")
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        rows = read_task(load_config(Finetune, ["configs/finetune/sentiment.yaml"]).task)
    finally:
        os.chdir(here)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for example in rows["train"][:200] + rows["train"][-200:]:
            writer.writerow([example.texts[0], example.label])
    (folder / "corpus.txt").write_text("\n\n".join(e.texts[0] for e in rows["train"][200:500]), encoding="utf-8")
    return folder


@pytest.fixture
def cpu_accelerator():
    from accelerate.state import AcceleratorState

    from engine.training.distributed import make_accelerator

    # Accelerate keeps one state per process, and another test may need another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield make_accelerator("float32")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of an encoder with two small layers and minilm's tokenizer."""
    import torch
    from tiny_models import SMALL
    from transformers import AutoTokenizer, BertConfig, BertModel

    from data.encoders import resolve_encoder

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    BertModel(BertConfig(**SMALL | {"vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
