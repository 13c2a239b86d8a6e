"""Architectures of full size, with random weights: stopped and resumed, and loaded by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from helpers import finetune_args
from tiny_architectures import tiny_tokenizer

from engine.training import trainer
from finetune.__main__ import main as finetune
from pretrain.__main__ import main as pretrain

VOCAB_SIZE = 4_096  # a published vocabulary would be most of the weights
IDS = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3_072}
DEBERTA_V3 = {
    **{"max_position_embeddings": 512, "max_relative_positions": -1, "position_buckets": 256, "type_vocab_size": 0},
    **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    **{"share_att_key": True, "norm_rel_ebd": "layer_norm", "layer_norm_eps": 1e-7},
}
CONFIGS = {
    "mpnet": lambda: transformers.MPNetConfig(**IDS, **BASE, max_position_embeddings=514),
    "deberta-v3": lambda: transformers.DebertaV2Config(**IDS, **BASE, **DEBERTA_V3),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**IDS, **BASE, max_position_embeddings=514, type_vocab_size=1),
    "modernbert": lambda: transformers.ModernBertConfig(**IDS, cls_token_id=0, sep_token_id=2),
}
STEPS = ["train.steps=20", "train.save_every=10", "train.log_every=1", "train.eval_every=20", "train.batch_size=2"]


class StopTrainingError(Exception):
    """Raised in place of a step."""


def run_stopped_and_resumed(command: Callable, args: list[str], run: Path, monkeypatch) -> None:
    """Run a command, stop it at step 12, after the checkpoint of step 10, and run it again to the end."""
    make_trainer = trainer.Trainer.__init__

    def init(self, module, optimizer, get_micro_batches, *rest, **options):
        def limited(step: int, rows: int | None):
            if step == 12:
                raise StopTrainingError
            return get_micro_batches(step, rows)

        make_trainer(self, module, optimizer, limited, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "__init__", init)
        with pytest.raises(StopTrainingError):
            command(args)
    assert (run / "step-000010").is_dir()
    command(args)
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_full_size_encoder_is_pretrained_and_fine_tuned(name, workspace, sentiment_files, monkeypatch):
    torch.manual_seed(0)
    transformers.AutoModelForMaskedLM.from_config(CONFIGS[name]()).save_pretrained("init")
    tiny_tokenizer("bert").save_pretrained("init")
    source = f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]"
    args = ["configs/pretrain/mlm.yaml", "run=p", "init=init", "corpus.name=t", "corpus.held_out=0.1", source, *STEPS]
    args += ["max_length=32", "eval_rows=4", "train.precision=float32", "train.optimizer=adamw"]
    run_stopped_and_resumed(pretrain, args, Path("out/runs/p"), monkeypatch)
    args = [*finetune_args(sentiment_files), *STEPS, "run=f", "encoder=out/runs/p/encoder", "task.num_examples=40"]
    run_stopped_and_resumed(finetune, [*args, "baselines=false"], Path("out/runs/f"), monkeypatch)
    for auto_class, folder in (
        ("AutoModelForMaskedLM", "out/runs/p/encoder"),
        ("AutoModel", "out/runs/p/encoder"),
        ("AutoModelForSequenceClassification", "out/runs/f/model"),
    ):
        model, info = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        output = model.eval()(**tokenizer(["a film", "a bad day in rome"], padding=True, return_tensors="pt"))
        # An encoder is saved without the first-token pooler that some architectures have.
        assert all(key.startswith("pooler.") for key in info["missing_keys"]) and output[0].isfinite().all()
