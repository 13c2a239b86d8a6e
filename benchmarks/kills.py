"""Stop commands at random moments and compare their results with those of undisturbed ones.

    python benchmarks/kills.py [kills=100] [seed=0] [only=finetune,study]
    python benchmarks/kills.py kills=20 signals=SIGKILL only=simsiam-resnet,contrastive-convnextv2,mae-vit

Each command is started in a process of its own, receives SIGTERM, SIGINT or SIGKILL (or `signals`) at a random moment,
and is started again, until it ends by itself. All weights, metrics, logs and sample outputs must
then be those of an undisturbed run, except for times. This repeats until every command was stopped `kills` times.
Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import results
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig

from data.encoders import resolve_encoder
from engine.cli import run_command
from engine.models import LOAD_KWARGS, load_check, verify
from finetune.__main__ import main as finetune_main
from finetune.study.__main__ import main as study_main
from pretrain.__main__ import main as pretrain_main

FOLDER = results.ROOT / "out/benchmarks/kills"
SIGNALS = "SIGTERM,SIGINT,SIGKILL"
PRELOADED = (
    "finetune.train finetune.study.run finetune.model.adapters sklearn.linear_model scipy.stats matplotlib.figure"
    " pretrain.train pretrain.modalities.images pretrain.model.image_encoder pretrain.image_gallery"
)
"""Modules that a command imports late."""
KILL_FRACTION = 0.6  # of the time of an undisturbed run, within which a start is stopped; a resumed one is shorter
UNCOMPARED = ("times.json", "manifest.json")  # a checkpoint's manifest has the hash of its state, which has a clock
MAX_STARTS = 60  # of one run, until it ends by itself
ARGS = [
    "configs/finetune/your-task.yaml",
    "method=none",
    "task.train.files=labels.csv",
    "encoder=encoder",
    "max_length=16",
    "train.precision=float32",
    "train.save_every=4",
    "train.log_every=2",
    "train.eval_every=8",
    "train.batch_size=8",
    "dropout=0.1",
]
DOCUMENTS = "selftrain={corpus: corpus.yaml, max_documents: 60, sentences_per_document: 2, min_steps: 12}"
STUDY = ["study.shots=[4,8]", "study.seeds=2", "study.max_confusion_size=100", "train.steps=4"]
IMAGE_ARGS = [
    "modality=images",
    "corpus={name: shapes, sources: [{idx: shapes}], held_out: 0.1}",
    "pixels={size: 32, channels: 1}",
    "model.hidden_size=32",
    "model.attention_heads=2",
    "train.lr=1e-3",
    "train.batch_size=16",
    "train.steps=24",
    "train.save_every=4",
    "train.log_every=2",
    "train.eval_every=12",
    "train.average_fraction=0.3",
]
MAE = ["objective.name=mae", "objective.decoder_dim=32", "model.architecture=vit", "model.patch_size=8"]
COMMANDS: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
    "finetune": (finetune_main, ["train.steps=24"]),
    "fewshot": (finetune_main, ["configs/method/fewshot.yaml", "task.shots=8", "train.steps=20"]),
    "selftrain": (
        finetune_main,
        ["configs/method/selftrain.yaml", "task.shots=8", "train.steps=8", "selftrain.min_steps=12"],
    ),
    "lora": (finetune_main, ["configs/method/lora.yaml", "train.steps=20"]),
    "documents": (finetune_main, ["configs/method/documents.yaml", "task.shots=8", "train.steps=8", DOCUMENTS]),
    "study": (study_main, STUDY),
}
IMAGE_COMMANDS: dict[str, list[str]] = {
    "simsiam-resnet": ["objective.name=simsiam", "model.architecture=resnet"],
    "contrastive-convnextv2": ["objective.name=contrastive", "model.architecture=convnextv2", "model.patch_size=4"],
    "mae-vit": MAE,
}
"""Pretraining of small networks on images."""


def make_inputs(folder: Path) -> None:
    """Write a small random encoder with a real tokenizer, labels, documents of their kind, and images."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    AutoModel.from_config(BertConfig(**shape, vocab_size=30_522, max_position_embeddings=32)).save_pretrained(
        folder / "encoder"
    )
    AutoTokenizer.from_pretrained(resolve_encoder("minilm"), **LOAD_KWARGS).save_pretrained(folder / "encoder")
    kinds = {"yes": "good warm lovely", "no": "bad dull awful"}
    rows = [(f"{words} film number {index}", label) for index in range(60) for label, words in kinds.items()]
    (folder / "labels.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    sentences = [
        [f"It was a {words} thing number {index}{part}." for part in range(3)]
        for index, (words, _) in enumerate((words, label) for _ in range(40) for label, words in kinds.items())
    ]
    (folder / "documents.jsonl").write_text("\n".join(json.dumps({"text": " ".join(text)}) for text in sentences))
    (folder / "corpus.yaml").write_text(
        "corpus: {name: documents, deduplicate: {near: false}, sources: [{files: documents.jsonl}]}"
    )
    images = np.random.default_rng(0).integers(0, 80, (160, 32, 32), dtype=np.uint8)
    for index, image in enumerate(images):
        image[index % 16 :, : 4 + index // 8] += 150
    (folder / "shapes").write_bytes(struct.pack(">HBB3I", 0, 8, 3, *images.shape) + images.tobytes())
    (folder / "configs").symlink_to(results.ROOT / "configs")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(results.ROOT / "out/cache")


def start(name: str, folder: Path) -> int:
    """Start a command in a child process in `folder`; return the child's process number.

    The child is a fork of this process, which has imported everything: that saves five seconds.
    """
    if child := os.fork():
        return child
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    main, args = (pretrain_main, IMAGE_COMMANDS[name]) if name in IMAGE_COMMANDS else COMMANDS[name]
    sys.argv = [name, *(IMAGE_ARGS if name in IMAGE_COMMANDS else ARGS), *args, f"run={name}"]
    code = 1
    try:
        run_command(main)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, timeout: float) -> int | None:
    """Wait for a child; return its exit code, negative for a signal, or None if it is still running."""
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def read_results(folder: Path) -> dict[str, object]:
    """Return the content of all files of runs and studies, without times and derived pages.

    Of checkpoints, the newest: which others are left depends on where a run was stopped, because a stop saves one.
    """
    contents = {}
    older = {step for run in folder.glob("out/runs/*") for step in sorted(run.glob("step-*"))[:-1]}
    for path in sorted([*folder.glob("out/runs/**/*"), *folder.glob("out/studies/**/*")]):
        if path.parent in older:
            continue
        if path.suffix == ".safetensors":
            contents[str(path.relative_to(folder))] = path.read_bytes()
        elif path.suffix in (".json", ".jsonl") and path.name not in UNCOMPARED:
            lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            contents[str(path.relative_to(folder))] = [drop_times(json.loads(line)) for line in lines]
    return contents


def drop_times(content: object) -> object:
    """Return JSON content without measured times."""
    if isinstance(content, dict):
        return {key: drop_times(value) for key, value in content.items() if "second" not in key}
    return [drop_times(value) for value in content] if isinstance(content, list) else content


def stop_repeatedly(name: str, kills: int, signals: list[signal.Signals], rng: random.Random) -> dict:
    """Stop a command `kills` times by one of the signals; return counts of stops and runs, and files that differ."""
    whole, cut = FOLDER / name / "whole", FOLDER / name / "cut"
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    for folder in (whole, cut):
        folder.mkdir(parents=True)
        make_inputs(folder)
    began = time.monotonic()
    if code := wait(start(name, whole), 600):
        sys.exit(f"{name}: exit code {code}\n{(whole / 'log.txt').read_text()}")
    duration, expected = time.monotonic() - began, read_results(whole)
    counts, runs, different = Counter(), 0, Counter()
    while counts.total() < kills:
        for kind in ("runs", "studies", "corpus"):
            shutil.rmtree(cut / "out" / kind, ignore_errors=True)
        for _ in range(MAX_STARTS):
            child = start(name, cut)
            code = wait(child, rng.uniform(0, KILL_FRACTION * duration))
            if code is None:
                number = rng.choice(signals)
                os.kill(child, number)
                code = wait(child, 120)
                counts[number.name] += 1
                if code in (-number, 128 + number):
                    continue
            if code:
                sys.exit(f"{name}: exit code {code}\n{(cut / 'log.txt').read_text()[-3000:]}")
            break
        else:
            sys.exit(f"{name}: not finished after {MAX_STARTS} starts")
        runs, found = runs + 1, read_results(cut)
        different.update(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    return {"counts": counts, "runs": runs, "files": len(expected), "different": different, "duration": duration}


def main(args: list[str]) -> None:
    """Run the benchmark; exit code 1 if a result differs."""
    options, _ = results.parse_options(args, kills="100", seed="0", only=",".join(COMMANDS), signals=SIGNALS)
    for module in PRELOADED.split():
        importlib.import_module(module)
    torch.set_num_threads(1)  # before forking; threads do not survive it
    verify.run_load_check = lambda arguments: load_check.check(*arguments)
    lines, failed, signals = [], False, [signal.Signals[name] for name in options["signals"].split(",")]
    for name in options["only"].split(","):
        result = stop_repeatedly(name, int(options["kills"]), signals, random.Random(f"{options['seed']} {name}"))
        stops = ", ".join(f"{count} {number}" for number, count in sorted(result["counts"].items()))
        different = ", ".join(sorted(result["different"])) or "none"
        lines.append([name, f"{result['duration']:.1f}", stops, str(result["runs"]), str(result["files"]), different])
        failed |= bool(result["different"])
        print(*lines[-1], sep="  ", flush=True)
    header = ["command", "seconds undisturbed", "stops", "finished runs", "files compared", "files that differ"]
    table = results.markdown_table(header, lines)
    title = f"Stopped commands: {options['only'].replace(',', ', ')}"
    results.write_section(title, " ".join(["python benchmarks/kills.py", *args]), table)
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
