"""What a pretrained encoder keeps of the one that it started from."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tiny_models import tiny_encoder
from torch import nn

from data import reference_outputs
from data.encoders import describe_lost_modules
from engine.errors import DataError
from pretrain.model.encoder import save_encoder

PROMPTS = {"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": "query", "similarity_fn_name": "dot"}


def write_modules(folder: Path, *kinds: str, pooling: str = "mean", prompts: dict | None = None) -> Path:
    """Write the files of a sentence-transformers encoder, except for its weights."""
    modules = [{"idx": index, "type": f"sentence_transformers.models.{kind}"} for index, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts or {"prompts": {"query": ""}}))
    return folder


def save(folder: Path, init_folder: Path) -> tuple[list[str], dict]:
    save_encoder(tiny_encoder(), folder, init_folder, {"max_length": 32}, "card", init_folder=init_folder)
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    path = folder / "config_sentence_transformers.json"
    return kinds, json.loads(path.read_text()) if path.is_file() else {}


def test_normalization_and_prompts_are_kept(tmp_path):
    (tmp_path / "init").mkdir()
    init = write_modules(tmp_path / "init", "Transformer", "Pooling", "Normalize", prompts=PROMPTS)
    kinds, prompts = save(tmp_path / "encoder", init)
    assert kinds == ["Transformer", "Pooling", "Normalize"] and describe_lost_modules(init) is None
    assert prompts == PROMPTS


@pytest.mark.parametrize(
    ("file", "content", "length"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 48}, 48),
        ("tokenizer_config.json", {"model_max_length": 64, "pad_token": "[PAD]"}, 64),
        ("tokenizer_config.json", {"model_max_length": int(1e30), "pad_token": "[PAD]"}, 32),
    ],
)
def test_the_length_of_texts_is_kept(tmp_path, file, content, length):
    (tmp_path / "init").mkdir()
    init = write_modules(tmp_path / "init", "Transformer", "Pooling")
    (init / file).write_text(json.dumps(content))
    save(tmp_path / "encoder", init)
    assert json.loads((tmp_path / "encoder" / "sentence_bert_config.json").read_text())["max_seq_length"] == length


@pytest.mark.parametrize(
    ("kinds", "pooling", "lost"),
    [
        (["Transformer", "Pooling", "Dense", "LayerNorm"], "mean", "Dense, LayerNorm"),
        (["Transformer", "Pooling"], "weightedmean", "its pooling"),
    ],
)
def test_what_is_not_kept_is_named(tmp_path, kinds, pooling, lost):
    (tmp_path / "init").mkdir()
    init = write_modules(tmp_path / "init", *kinds, pooling=pooling)
    assert describe_lost_modules(init).endswith(f": {lost}")
    assert save(tmp_path / "encoder", init) == (["Transformer", "Pooling"], {})


@pytest.mark.parametrize("content", ["{", "3", "[3]", "[{}]", '[{"type": 3}]'])
def test_a_damaged_list_of_modules_is_an_error(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(DataError, match="modules.json: cannot be read"):
        describe_lost_modules(tmp_path)


class MovedNetwork(nn.Module):
    """A network on another device, which notes where it is moved to."""

    config = None

    def __init__(self):
        super().__init__()
        self.weight, self.moves = nn.Parameter(torch.zeros(1, device="meta")), []

    def to(self, device: str | torch.device) -> nn.Module:
        self.moves.append(torch.device(device).type)
        return self

    def forward(self, failing: bool = False) -> torch.Tensor:
        if failing:
            raise InterruptedError
        return torch.ones(2)


@pytest.mark.parametrize("failing", [False, True])
def test_a_network_whose_outputs_are_recorded_goes_back_to_its_device(monkeypatch, failing):
    tokenizer = Mock(return_value={"failing": failing}, sep_token="[SEP]")
    monkeypatch.setattr(reference_outputs, "load_tokenizer", lambda folder: tokenizer)
    monkeypatch.setattr(reference_outputs, "limit_length", lambda max_length, *_: max_length)
    network = MovedNetwork()
    with pytest.raises(InterruptedError) if failing else nullcontext():
        recorded = reference_outputs.record_outputs(network, Path(), [("a",), ("b",)], 8, lambda output: output)
        assert recorded["outputs"] == [[1, 1]] * 2
    assert network.moves == ["cpu", "meta"]
