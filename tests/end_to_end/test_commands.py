"""The two commands from raw text to a model, and loading the results without this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT, RUN_COMMANDS, finetune_args, pretrain_args, run_module
from safetensors.torch import load_file

LOAD_ENCODER = """
import sys, importlib.util, torch
assert importlib.util.find_spec("pretrain") is None, "the project can be imported"
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(["a film to remember", "dull"], padding=True, return_tensors="pt")
for loader in (AutoModel, AutoModelForMaskedLM):
    model, info = loader.from_pretrained(sys.argv[1], output_loading_info=True)
    assert not info["missing_keys"], info
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
assert importlib.util.find_spec("finetune") is None, "the project can be imported"
from transformers import pipeline
classify = pipeline("text-classification", sys.argv[1])
print(json.dumps(classify(["a film to remember", "dull"])))
"""


def load_weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def run_without_the_project(script: str, folder: Path, cwd: Path):
    """Run a script in a process that cannot import the project."""
    (cwd / "empty").mkdir(exist_ok=True)
    return run_module("-c", script, str(folder), prefix=(sys.executable, "-P"), cwd=cwd / "empty", PYTHONPATH="")


def test_from_raw_text_to_a_model_that_loads_in_plain_libraries(workspace, sentiment_files):
    pretrain = ("pretrain", *pretrain_args(sentiment_files), "run=enc", "train.steps=12")
    pretrain += ("train.log_every=3", "train.eval_every=6")
    result = run_module(*pretrain, fresh=True)
    assert result.returncode == 0, result.stderr
    assert "tokens seen" in result.stdout and "make finetune" in result.stdout
    folder = workspace / "out/runs/enc"
    for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"} <= entry.keys()
    assert 'aria-label="eval/loss by step"' in (folder / "report.html").read_text()
    loaded = run_without_the_project(LOAD_ENCODER, folder / "encoder", workspace)
    assert loaded.stdout.strip() == "loads", loaded.stderr

    again = run_module(*pretrain)
    assert again.returncode == 0 and "is finished" in again.stdout

    # The newest encoder is the default.
    finetune = ("finetune", *finetune_args(sentiment_files), "run=mod", "train.steps=8", "train.eval_every=4")
    result = run_module(*finetune, "task.num_examples=40", fresh=True)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((workspace / "out/runs/mod/metrics.json").read_text())
    assert metrics["encoder"] == "out/runs/enc/encoder" and metrics["num_train_examples"] == 40
    assert {"accuracy", "f1_macro", "n"} <= metrics["test"].keys() and metrics["test"]["n"] == 50
    assert metrics["baselines"].keys() == {"tfidf", "without_pretraining"}
    assert "TF-IDF + logistic regression" in result.stdout and "random weights" in result.stdout
    loaded = run_without_the_project(LOAD_MODEL, workspace / "out/runs/mod/model", workspace)
    assert {output["label"] for output in json.loads(loaded.stdout)} <= {"negative", "positive"}, loaded.stderr
    assert not list((workspace / "out/runs/mod").glob("**/step-*")), "a finished model needs no checkpoints"


def test_the_same_seed_gives_bit_identical_weights(workspace, sentiment_files):
    for name in ("one", "two"):
        pretrain = [*pretrain_args(sentiment_files), f"run={name}", "train.steps=6", "dropout=0.1"]
        finetune = [*finetune_args(sentiment_files), f"run={name}-model", f"encoder=out/runs/{name}/encoder"]
        finetune += ["train.steps=6", "baselines=false", "task.num_examples=40"]
        # Both in one process: starting one takes longer than these trainings. Sets have another order in a new Python.
        commands = json.dumps([("pretrain", pretrain), ("finetune", finetune)])
        result = run_module("-c", RUN_COMMANDS, commands, prefix=(sys.executable,), fresh=name == "one")
        assert result.returncode == 0, result.stderr
    for folder in ("{}/encoder", "{}-model/model"):
        first, second = (load_weights(workspace / "out/runs" / folder.format(name)) for name in ("one", "two"))
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

    launch = ("-m", "accelerate.commands.launch", "--config_file", "configs/launch/two-cpu-processes.yaml", "driver.py")
    for args in (("driver.py", commands(whole=[], micro=["train.micro_batch_size=4"])), (*launch, commands(two=[]))):
        result = run_module(*args, prefix=(sys.executable,), cwd=folder)
        assert result.returncode == 0, result.stderr + result.stdout
    return folder / "out/runs"


@pytest.mark.parametrize("stage", STAGES)
def test_weights_do_not_depend_on_how_the_batch_is_split(runs, stage):
    """To 1e-5 in float32; for Muon, which orthogonalizes in bf16 and amplifies tiny differences, the losses agree."""
    whole, *others = (runs / f"{stage.replace(' ', '-')}-{variant}" for variant in ("whole", "micro", "two"))
    if stage == "muon":
        losses = [json.loads((folder / "metrics.json").read_text())["eval"]["loss"] for folder in (whole, *others)]
        assert max(losses) - min(losses) < 2e-3, losses
        return
    name = "model" if stage == "finetune" else "encoder"
    expected = load_weights(whole / name)
    for folder in others:
        actual = load_weights(folder / name)
        worst = max((expected[key] - actual[key]).abs().max().item() for key in expected)
        assert worst < 1e-5, f"{folder.name}: {worst}"
