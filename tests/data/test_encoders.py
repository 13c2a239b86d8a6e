"""Folders of encoders as they are published: in older formats, or with something that is never loaded."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_architectures import SPECIAL_TOKENS, VOCABULARY, tiny_config, tiny_model, tiny_tokenizer, write_encoder

from data.encoders import base_model_info, conversion_command, find_encoder_folder, read_pooling, resolve_encoder
from data.tokens.dataset import ExampleTokenizer
from data.tokens.encode import CachedTokenizer
from data.tokens.tokenizer import copy_tokenizer
from engine.errors import DataError
from engine.kernels.attention import use_fast_attention
from engine.models.embed import pool
from engine.models.load import load_pretrained, load_tokenizer
from engine.models.positions import max_positions, position_offset


def test_pickled_weights_are_converted_by_the_command_in_the_message(tmp_path):
    folder = write_encoder("bert", tmp_path / "enc", "AutoModelForMaskedLM")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="enc: its weights are pickled, .* if you trust it: python -c") as error:
        resolve_encoder(str(folder))
    _, flag, code = shlex.split(re.search(r"python -c .*", str(error.value))[0])
    assert flag == "-c"
    exec(code)
    converted = load_file(find_encoder_folder(str(folder)) / "model.safetensors")
    assert all(converted[name].equal(weight) for name, weight in weights.items())


@pytest.mark.parametrize("name", ["plain", 'a"; touch x; "', "$(touch x)", "`touch x`", "it's $HOME"])
def test_the_command_in_the_message_runs_nothing_of_a_name(name):
    program, flag, code = shlex.split(conversion_command(name, "target"))
    called = re.findall(r"from_pretrained\((.*?)\)\.save", code)
    assert (program, flag) == ("python", "-c") and [ast.literal_eval(each) for each in called] == [name, name]
    command = ["sh", "-c", conversion_command(name, "target").replace("python -c", "printf %s", 1)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == code


def test_an_architecture_in_custom_code_is_refused(tmp_path):
    folder = write_encoder("bert", tmp_path / "enc")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    assert resolve_encoder(str(folder)) == folder, "the architecture is one of transformers"
    (folder / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(DataError, match="transformers has no architecture 'new', and custom code .* is never run"):
        resolve_encoder(str(folder))


def test_a_vocabulary_without_tokenizer_json_is_converted(workspace):
    folder = write_encoder("bert", workspace / "enc")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    names = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **names}))
    ids, _ = CachedTokenizer(copy_tokenizer("c", folder)).encode(["A good day, it was."])
    assert ids.tolist() == tiny_tokenizer("bert")("a good day, it was.")["input_ids"][1:-1]


@pytest.mark.skipif(bool(find_spec("sentencepiece")), reason="sentencepiece is installed")
def test_a_sentencepiece_model_without_its_package_is_an_error(tmp_path):
    folder = write_encoder("deberta-v2", tmp_path / "enc")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "spm.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(DataError, match="enc: its tokenizer is a SentencePiece model; pip install sentencepiece"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("config_pad", "expected"), [(None, "</s>"), (1, "<pad>")])
def test_a_tokenizer_without_a_padding_token_pads_with_another(tmp_path, config_pad, expected):
    folder = write_encoder("gpt2", tmp_path / "enc", pad_token_id=config_pad)
    assert load_tokenizer(folder).pad_token == expected
    tokenizer = tiny_tokenizer("gpt2")
    for name in ("pad_token", "eos_token", "unk_token"):
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    if config_pad is None:
        with pytest.raises(DataError, match="no padding token; set pad_token in tokenizer_config.json"):
            load_tokenizer(folder)


@pytest.mark.parametrize(
    ("model_type", "offset", "limit"),
    [("bert", 0, 66), ("roberta", 2, 64), ("mpnet", 2, 64), ("longformer", 2, 64), ("gpt2", 0, 66), ("t5", 0, None)],
)
def test_positions_are_those_that_the_network_has(model_type, offset, limit):
    config, model = tiny_config(model_type), tiny_model(model_type, "AutoModel")
    assert position_offset(model) == offset and max_positions(config) == limit
    if limit and model_type != "longformer":
        ids = torch.full((1, limit), 7)
        model(input_ids=ids)
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(input_ids=torch.cat([ids, ids[:, :1]], 1))


def test_the_last_token_is_pooled_where_the_folder_names_it(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    for content in ({"pooling_mode": "lasttoken"}, {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}):
        Path(tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
        assert read_pooling(tmp_path) == "lasttoken"
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "lasttoken").equal(torch.stack([states[0, 1], states[1, 2]]))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("config.json", {"model_type": ["bert"], "auto_map": {"AutoModel": "m.M"}}, "no architecture ['bert']"),
        ("config.json", {"text_config": {"attn_implementation": "other/kernel"}}, "other/kernel, which is never run"),
        ("config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers in config.json is 1,000,000, over 1,000"),
        ("config.json", {"num_labels": 10**8}, "num_labels in config.json is 100,000,000, over 1,000,000"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../b.safetensors"}}, "weights outside of the folder"),
    ],
)
def test_a_folder_that_names_code_or_weights_elsewhere_is_refused(tmp_path, name, changes, expected):
    path = write_encoder("bert", tmp_path / "enc") / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))
    with pytest.raises(DataError, match=re.escape(expected)):
        resolve_encoder(str(tmp_path / "enc"))


@pytest.mark.parametrize(("limit", "expected"), [(48.0, 48), (0, None), (-5, None), ("48", None), ([48], None)])
def test_the_limit_of_a_tokenizer_is_a_number_of_tokens(tmp_path, limit, expected):
    path = write_encoder("bert", tmp_path / "enc") / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": limit}))
    if expected:
        assert load_tokenizer(tmp_path / "enc").model_max_length == expected
        return
    with pytest.raises(DataError, match=re.escape(f"tokenizer_config.json is {limit!r}, no number of tokens")):
        load_tokenizer(tmp_path / "enc")


def test_a_tokenizer_without_an_attention_mask_is_an_error(tmp_path):
    path = write_encoder("bert", tmp_path / "enc") / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids"]}))
    with pytest.raises(DataError, match="returns no attention mask; add attention_mask to model_input_names"):
        ExampleTokenizer(tmp_path / "enc", 16)


@pytest.mark.parametrize("name", ["output_attentions", "return_dict"])
def test_outputs_that_a_configuration_asks_for_change_nothing(tmp_path, name):
    path = write_encoder("bert", tmp_path / "enc") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: name == "output_attentions"}))
    model, _ = load_pretrained(tmp_path / "enc", "AutoModel")
    use_fast_attention(model)
    assert model(input_ids=torch.tensor([[5, 6]])).last_hidden_state.shape == (1, 2, 32)
    model.save_pretrained(tmp_path / "saved")


def test_a_tokenizer_that_panics_is_an_error(tmp_path):
    path = write_encoder("bert", tmp_path / "enc") / "tokenizer.json"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    with pytest.raises(DataError, match="enc: cannot load a tokenizer"):
        load_tokenizer(tmp_path / "enc")


def test_damaged_files_next_to_an_encoder_are_no_crash(tmp_path):
    (tmp_path / "README.md").write_bytes("---\nlicense: mit\nauthor: Zoë\n---\n".encode("latin-1"))
    assert base_model_info("other/encoder", tmp_path) == {"name": "other/encoder", "license": "mit"}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["mean"]}')
    assert read_pooling(tmp_path) is None
