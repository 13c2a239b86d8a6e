"""The two commands from raw text to a model, and loading the results without this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT, RUN_COMMANDS, finetune_args, pretrain_args, run_module, run_two_processes
from safetensors.torch import load_file

LOAD = """
import sys, importlib.util, json, torch
assert importlib.util.find_spec("pretrain") is None, "the project can be imported"
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline
encoder, model = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(encoder)
inputs = tokenizer(["a film to remember", "dull"], padding=True, return_tensors="pt")
for loader in (AutoModel, AutoModelForMaskedLM):
    loaded, info = loader.from_pretrained(encoder, output_loading_info=True)
    assert not info["missing_keys"], info
    loaded.eval()
masked = loaded(**inputs).logits
assert masked.shape[-1] == len(tokenizer), masked.shape
from sentence_transformers import SentenceTransformer
vectors = torch.tensor(SentenceTransformer(encoder, device="cpu").encode(["a film to remember", "dull"]))
hidden = AutoModel.from_pretrained(encoder)(**inputs).last_hidden_state
mask = inputs["attention_mask"][..., None]
mean = (hidden * mask).sum(1) / mask.sum(1)
assert torch.allclose(vectors, mean, atol=1e-5), (vectors - mean).abs().max()
print(json.dumps(pipeline("text-classification", model)(["a film to remember", "dull"])))
"""


def load_weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def test_from_raw_text_to_a_model_that_loads_in_plain_libraries(workspace, sentiment_files):
    """Both commands in new processes; a third one, which cannot import the project, loads what they wrote."""
    stages = {
        "pretrain": [*pretrain_args(sentiment_files), "dropout=0.1", "train.steps=12", "train.eval_every=6"],
        "finetune": [*finetune_args(sentiment_files), "train.steps=8", "train.eval_every=4", "task.num_examples=40"],
    }
    result = run_module("pretrain", *stages["pretrain"], "train.log_every=3", "run=enc", fresh=True)
    assert result.returncode == 0, result.stderr
    assert "tokens seen" in result.stdout and "make finetune" in result.stdout
    folder = workspace / "out/runs/enc"
    for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"} <= entry.keys()
    assert 'aria-label="eval/loss by step"' in (folder / "report.html").read_text()

    # The newest encoder is the default.
    result = run_module("finetune", *stages["finetune"], "run=mod", fresh=True)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((workspace / "out/runs/mod/metrics.json").read_text())
    assert metrics["encoder"] == "out/runs/enc/encoder" and metrics["num_train_examples"] == 40
    assert {"accuracy", "f1_macro", "n"} <= metrics["test"].keys() and metrics["test"]["n"] == 50
    assert metrics["baselines"].keys() == {"tfidf", "without_pretraining"}
    assert "TF-IDF + logistic regression" in result.stdout and "random weights" in result.stdout
    assert not list((workspace / "out/runs/mod").glob("**/step-*")), "a finished model needs no checkpoints"

    (workspace / "empty").mkdir()
    folders = [str(workspace / "out/runs" / name) for name in ("enc/encoder", "mod/model")]
    options = {"prefix": (sys.executable, "-P"), "cwd": workspace / "empty", "PYTHONPATH": ""}
    loaded = run_module("-c", LOAD, *folders, **options)
    assert loaded.returncode == 0, loaded.stderr
    assert {output["label"] for output in json.loads(loaded.stdout)} <= {"negative", "positive"}, loaded.stdout

    # Another process with the same seed, where sets have another order, gives the same weights, bit for bit.
    commands = [
        ("pretrain", [*stages["pretrain"], "train.log_every=3", "run=enc"]),
        ("pretrain", [*stages["pretrain"], "run=again"]),
        ("finetune", [*stages["finetune"], "run=mod-again", "encoder=out/runs/again/encoder", "baselines=false"]),
    ]
    result = run_module("-c", RUN_COMMANDS, json.dumps(commands), prefix=(sys.executable,))
    assert result.returncode == 0, result.stderr
    assert "out/runs/enc is finished" in result.stdout
    for pair in (("enc/encoder", "again/encoder"), ("mod/model", "mod-again/model")):
        first, second = (load_weights(workspace / "out/runs" / name) for name in pair)
        assert all(first[name].equal(second[name]) for name in first) and first.keys() == second.keys()


STAGES = {
    "mlm": [],
    "muon": ["train.optimizer=muon"],
    "contrastive": ["objective={name: contrastive, min_span: 4, max_span: 20}"],
    "joint": ["objective={name: joint, min_span: 4, max_span: 20, projection_dim: 16}"],
    "hard negatives": ["objective={name: contrastive, views: pairs, pairs: {files: pairs.csv, negative: other}}"],
    "finetune": [
        "encoder=out/runs/mlm-whole/encoder",
        "dropout=0",
        "baselines=false",
        "task.num_examples=60",
        # Layers are unfrozen during training, to cover freezing under DDP.
        "layers.unfreeze_every=2",
        "layers.unfreeze_unit=steps",
        "layers.unfreeze_group=1",
    ],
}


@pytest.fixture(scope="module")
def runs(sentiment_files, tmp_path_factory) -> Path:
    """Each stage with a batch of 16 as 1 x 16, 1 x (4 x 4) and 2 processes x 8, in STAGE-whole, -micro and -two."""
    folder = tmp_path_factory.mktemp("batches")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(RUN_COMMANDS)
    lines = (sentiment_files / "corpus.txt").read_text().splitlines()
    texts = [text.replace('"', "") for text in lines if text.strip()][:90]
    triples = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    rows = [f'"{anchor}","{positive}","{other}"\n' for anchor, positive, other in triples]
    (folder / "pairs.csv").write_text("anchor,positive,other\n" + "".join(rows))

    def commands(**variants: list[str]) -> str:
        """The commands of all stages in each variant, {name: arguments}."""
        common = ["train.steps=6", "train.batch_size=16", "train.eval_every=6", "train.lr=1e-3"]
        pretrain, finetune = pretrain_args(sentiment_files), finetune_args(sentiment_files)
        all_commands = []
        for stage, stage_args in STAGES.items():
            args = [*(finetune if stage == "finetune" else pretrain), *common, *stage_args]
            for variant, variant_args in variants.items():
                run = f"run={stage.replace(' ', '-')}-{variant}"
                module = "finetune" if stage == "finetune" else "pretrain"
                all_commands.append((module, [*args, *variant_args, run]))
        return json.dumps(all_commands)

    args = commands(whole=[], micro=["train.micro_batch_size=4"])
    results = [run_module("driver.py", args, prefix=(sys.executable,), cwd=folder)]
    results += run_two_processes("driver.py", commands(two=[]), cwd=folder)
    for result in results:
        assert result.returncode == 0, result.stderr + result.stdout
    return folder / "out/runs"


@pytest.mark.parametrize("stage", STAGES)
def test_weights_do_not_depend_on_how_the_batch_is_split(runs, stage):
    """To 1e-5 in float32; for Muon, which orthogonalizes in bf16 and amplifies tiny differences, the losses agree."""
    whole, *others = (runs / f"{stage.replace(' ', '-')}-{variant}" for variant in ("whole", "micro", "two"))
    name = "model" if stage == "finetune" else "encoder"
    records = [json.loads((folder / name / "record.json").read_text()) for folder in (whole, *others)]
    assert [record["processes"] for record in records] == [1, 1, 2]
    if stage == "muon":
        losses = [json.loads((folder / "metrics.json").read_text())["eval"]["loss"] for folder in (whole, *others)]
        assert max(losses) - min(losses) < 2e-3, losses
        return
    expected = load_weights(whole / name)
    for folder in others:
        actual = load_weights(folder / name)
        worst = max((expected[key] - actual[key]).abs().max().item() for key in expected)
        assert worst < 1e-5, f"{folder.name}: {worst}"
