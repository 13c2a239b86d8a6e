"""The two commands from raw text to a model, as separate processes, and what others load from the result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT, RUN_COMMANDS, finetune_args, pretrain_args, run_module
from safetensors.torch import load_file

LOAD_ENCODER = """
import sys, importlib.util, torch
assert importlib.util.find_spec("pretrain") is None, "our code is in reach"
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(["a film to remember", "dull"], padding=True, return_tensors="pt")
for loader in (AutoModel, AutoModelForMaskedLM):
    model, told = loader.from_pretrained(sys.argv[1], output_loading_info=True)
    assert not told["missing_keys"], told
    model.eval()
masked = model(**inputs).logits
assert masked.shape[-1] == len(tokenizer), masked.shape
from sentence_transformers import SentenceTransformer
vectors = torch.tensor(SentenceTransformer(sys.argv[1], device="cpu").encode(["a film to remember", "dull"]))
hidden = AutoModel.from_pretrained(sys.argv[1])(**inputs).last_hidden_state
mask = inputs["attention_mask"][..., None]
mean = (hidden * mask).sum(1) / mask.sum(1)
assert torch.allclose(vectors, mean, atol=1e-5), (vectors - mean).abs().max()
print("loads")
"""

LOAD_MODEL = """
import sys, importlib.util, json
assert importlib.util.find_spec("finetune") is None, "our code is in reach"
from transformers import pipeline
classify = pipeline("text-classification", sys.argv[1])
print(json.dumps(classify(["a film to remember", "dull"])))
"""

# One command after another in one process (or in each of two): starting one takes longer than these trainings.


def pretrain(sentiment_files: Path, *words: str, **more):
    return run_module("pretrain", *pretrain_args(sentiment_files), *words, **more)


def finetune(sentiment_files: Path, *words: str, **more):
    return run_module("finetune", *finetune_args(sentiment_files), *words, **more)


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def elsewhere(script: str, folder: Path, cwd: Path):
    """A fresh process that cannot import our code."""
    (cwd / "away").mkdir(exist_ok=True)
    return run_module("-c", script, str(folder), prefix=(sys.executable, "-P"), cwd=cwd / "away", PYTHONPATH="")


def test_from_raw_text_to_a_model_anyone_loads(workspace, sentiment_files):
    done = pretrain(sentiment_files, "run=enc", "train.steps=12", "train.log_every=3", "train.eval_every=6")
    assert done.returncode == 0, done.stderr
    assert "tokens seen" in done.stdout and "make finetune" in done.stdout
    folder = workspace / "out/runs/enc"
    for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"} <= entry.keys()
    assert 'class="title" x="0" y="14">eval/loss<' in (folder / "report.html").read_text()
    loaded = elsewhere(LOAD_ENCODER, folder / "encoder", workspace)
    assert loaded.stdout.strip() == "loads", loaded.stderr

    again = pretrain(sentiment_files, "run=enc", "train.steps=12", "train.log_every=3", "train.eval_every=6")
    assert again.returncode == 0 and "is finished" in again.stdout

    # The newest encoder is taken unasked.
    tuned = finetune(sentiment_files, "run=mod", "train.steps=8", "train.eval_every=4", "task.num_examples=40")
    assert tuned.returncode == 0, tuned.stderr
    metrics = json.loads((workspace / "out/runs/mod/metrics.json").read_text())
    assert metrics["encoder"] == "out/runs/enc/encoder" and metrics["num_train_examples"] == 40
    assert {"accuracy", "f1_macro", "n"} <= metrics["test"].keys() and metrics["test"]["n"] == 50
    assert metrics["baselines"].keys() == {"tfidf", "without_pretraining"}
    assert "TF-IDF + logistic regression" in tuned.stdout and "random weights" in tuned.stdout
    predicted = elsewhere(LOAD_MODEL, workspace / "out/runs/mod/model", workspace)
    assert {answer["label"] for answer in json.loads(predicted.stdout)} <= {"negative", "positive"}, predicted.stderr
    assert not list((workspace / "out/runs/mod").glob("**/step-*")), "a finished model needs no checkpoints"


def test_same_seed_same_weights_bit_for_bit(workspace, sentiment_files):
    for name in ("one", "two"):
        commands = [
            ("pretrain", [*pretrain_args(sentiment_files), f"run={name}", "train.steps=6", "dropout=0.1"]),
            (
                "finetune",
                [
                    *finetune_args(sentiment_files),
                    f"run={name}-model",
                    f"encoder=out/runs/{name}/encoder",
                    "train.steps=6",
                    "baselines=false",
                    "task.num_examples=40",
                ],
            ),
        ]
        done = run_module("-c", RUN_COMMANDS, json.dumps(commands), prefix=(sys.executable,))
        assert done.returncode == 0, done.stderr
    for kind in ("{}/encoder", "{}-model/model"):
        first, second = (weights(workspace / "out/runs" / kind.format(name)) for name in ("one", "two"))
        assert all(first[name].equal(second[name]) for name in first) and first.keys() == second.keys()


STAGES = {
    "mlm": [],
    "muon": ["train.optimizer=muon"],
    "contrastive": ["objective={name: contrastive, min_span: 4, max_span: 20}"],
    "joint": ["objective={name: joint, min_span: 4, max_span: 20, projection_dim: 16}"],
    "hard negatives": ["objective={name: contrastive, views: pairs, pairs: {files: pairs.csv, hard: other}}"],
    "finetune": [
        "encoder=out/runs/mlm-whole/encoder",
        "dropout=0",
        "baselines=false",
        "task.num_examples=60",
        # Layers join on the way, so that freezing is met under DDP too.
        "layers.unfreeze_every=2",
        "layers.unfreeze_unit=steps",
        "layers.unfreeze_group=1",
    ],
}


@pytest.fixture(scope="module")
def cut(sentiment_files, tmp_path_factory) -> Path:
    """Each stage as 1 process x 16, 1 x (4 x 4), 2 x 8 through accelerate launch, in out/runs/STAGE-whole, -pieces, -two."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(RUN_COMMANDS)
    texts = [
        text.replace('"', "") for text in (sentiment_files / "corpus.txt").read_text().splitlines() if text.strip()
    ][:90]
    (folder / "pairs.csv").write_text(
        "first,second,other\n"
        + "".join(f'"{one}","{two}","{three}"\n' for one, two, three in zip(texts[::3], texts[1::3], texts[2::3]))
    )

    def commands(*ways: tuple[str, list[str]]) -> str:
        made = []
        for name, more in STAGES.items():
            own = (
                ["finetune", finetune_args(sentiment_files)]
                if name == "finetune"
                else ["pretrain", pretrain_args(sentiment_files)]
            )
            made += [
                (
                    own[0],
                    [
                        *own[1],
                        "train.steps=6",
                        "train.batch_size=16",
                        "train.eval_every=6",
                        "train.lr=1e-3",
                        *more,
                        *words,
                        f"run={name.replace(' ', '-')}-{way}",
                    ],
                )
                for way, words in ways
            ]
        return json.dumps(made)

    launch = ("-m", "accelerate.commands.launch", "--config_file", "configs/launch/two-cpu-processes.yaml", "driver.py")
    for words in (
        ("driver.py", commands(("whole", []), ("pieces", ["train.micro_batch_size=4"]))),
        (*launch, commands(("two", []))),
    ):
        done = run_module(*words, prefix=(sys.executable,), cwd=folder)
        assert done.returncode == 0, done.stderr + done.stdout
    return folder / "out/runs"


@pytest.mark.parametrize("stage", STAGES)
def test_same_weights_however_the_batch_is_cut(cut, stage):
    """To 1e-5 in float32; but for Muon, which makes a matrix orthogonal in bf16 and so rounds what differs by 1e-7 apart:
    there the loss."""
    whole, *others = (cut / f"{stage.replace(' ', '-')}-{way}" for way in ("whole", "pieces", "two"))
    if stage == "muon":
        losses = [json.loads((folder / "metrics.json").read_text())["eval"]["loss"] for folder in (whole, *others)]
        assert max(losses) - min(losses) < 2e-3, losses
        return
    kind = "model" if stage == "finetune" else "encoder"
    expected = weights(whole / kind)
    for folder in others:
        other = weights(folder / kind)
        worst = max((expected[key] - other[key]).abs().max().item() for key in expected)
        assert worst < 1e-5, f"{folder.name}: {worst}"
