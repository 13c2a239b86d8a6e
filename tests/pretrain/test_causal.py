"""Next-token prediction: the loss of packed rows compared with each text alone, and the folders of a run."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers import error_lines, pretrain_args
from tiny_architectures import tiny_model, write_encoder
from tiny_models import VOCAB_SIZE, InMemoryShards, make_batch, tiny_encoder
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from data.tokens.shards import Shards
from engine.config.loader import load_config
from engine.errors import DataError
from pretrain import train as stage
from pretrain.__main__ import main
from pretrain.config import Pretrain
from pretrain.model.build import encoder_from_pretrained, prepare_encoder
from pretrain.model.encoder import Encoder
from pretrain.model.rms_norm import RMSNormFunction, fast_rms_norm, original_rms_norm
from pretrain.objective import HeldOut
from pretrain.objectives import causal
from pretrain.text_generation import continuing_decoder

PACKINGS = {
    **dict.fromkeys(("bert", "modernbert", "llama", "gpt2", "gpt_neox", "qwen3", "roberta"), "mask"),
    **dict.fromkeys(("mistral", "bloom"), "unpacked"),
}


def causal_encoder(architecture: str) -> Encoder:
    if architecture in ("bert", "modernbert", "llama"):
        return tiny_encoder(architecture, is_causal=True, layers=3, intermediate_size=48, local_attention=8)
    options = {} if architecture != "roberta" else {"is_decoder": True}
    model = tiny_model(architecture, "AutoModelForCausalLM", vocab_size=VOCAB_SIZE, **options)
    return prepare_encoder(Encoder(model, is_causal=True), 0.0)


@pytest.mark.parametrize("architecture", PACKINGS)
def test_loss_and_gradient_equal_those_of_each_text_alone(architecture):
    encoder = causal_encoder(architecture)
    assert encoder.packing == PACKINGS[architecture]
    inputs = make_batch(causal.Dataset(causal.Config(), InMemoryShards()), list(range(6))).inputs
    output = causal.Objective(causal.Config(), encoder)(**inputs)
    output.loss.backward()
    gradients = {name: each.grad.clone() for name, each in encoder.model.named_parameters() if each.grad is not None}
    encoder.zero_grad()
    encoder.model.set_attn_implementation("eager")
    slow, count = 0.0, 0
    for ids, documents in zip(inputs["input_ids"], inputs["document_ids"], strict=True):
        for number in range(documents.max() + 1):
            text = ids[documents == number][None]
            logits = encoder.model(input_ids=text).logits[0, :-1]
            slow = slow + F.cross_entropy(logits, text[0, 1:], reduction="sum")
            count += len(logits)
    slow.backward()
    assert output.count == count and torch.allclose(output.loss, slow, rtol=1e-5)
    for name, parameter in encoder.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5), name


def test_the_fast_norm_equals_that_of_transformers():
    random = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(4, 9, 16, generator=random)).double().requires_grad_()
    weight = torch.randn(16, generator=random).double().requires_grad_()
    inputs = states.flatten(0, 1), weight
    assert torch.autograd.gradcheck(lambda *each: RMSNormFunction.apply(*each, 1e-6), inputs)
    norm = LlamaRMSNorm(16)
    norm.weight.data = weight.detach().float()
    for shape in ((4, 9, 16), (36, 16)):
        hidden = states.detach().float().view(shape)
        assert torch.allclose(fast_rms_norm(norm, hidden), original_rms_norm(norm, hidden), atol=1e-6)
        half = hidden.bfloat16()
        assert torch.equal(fast_rms_norm(norm, half), original_rms_norm(norm, half))


def test_perplexity_is_that_of_each_text_alone(cpu_accelerator, capsys):
    encoder, shards = causal_encoder("llama"), InMemoryShards(20)
    objective, losses = causal.Objective(causal.Config(), encoder.eval()), []
    metrics = objective.evaluate(HeldOut(shards, cpu_accelerator))
    with torch.no_grad():
        for start, size in shards.pieces:
            text = torch.tensor([[2, *shards.tokens[start : start + size], 3]])
            losses += F.cross_entropy(encoder.model(input_ids=text).logits[0, :-1], text[0, 1:], reduction="none")
    assert abs(metrics["perplexity"] / math.exp(torch.stack(losses).mean()) - 1) < 1e-5
    assert 0.9 * VOCAB_SIZE < metrics["perplexity"]
    encoder.model.get_output_embeddings().weight.data *= -500
    for _ in range(2):
        assert objective.evaluate(HeldOut(shards, cpu_accelerator))["perplexity"] > VOCAB_SIZE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "diverges" in line]
    assert line.startswith("warning: training diverges")


def test_an_encoder_is_loaded_as_the_decoder_with_its_weights(tmp_path):
    """ModernBERT, with global and local layers, compared with itself under a causal mask."""
    encoder = tiny_encoder("modernbert", layers=4, local_attention=8)
    encoder.model.save_pretrained(tmp_path)
    loaded = encoder_from_pretrained(tmp_path, 32, 0.0, None, is_causal=True)
    assert loaded.model.config.model_type == "modernbert-decoder" and not loaded.new_parameters
    ids, positions = torch.arange(5, 29)[None], torch.arange(24)
    mask = (positions[:, None] >= positions)[None, None]
    near = mask & ((positions[:, None] - positions) <= encoder.model.config.sliding_window)
    with torch.no_grad():
        masks = {"full_attention": mask, "sliding_attention": near}
        expected = encoder.model(input_ids=ids, attention_mask=masks).logits
        assert torch.allclose(loaded.model.eval()(input_ids=ids).logits, expected, atol=1e-5)


def test_a_continued_text_has_a_space_before_its_next_word():
    decoder = continuing_decoder("##")
    assert decoder.decode(["is", "un", "##believ", "##able", ",", "not", "#"]) == " is unbelievable, not #"
    assert decoder.decode(["##s", "!"]) == "s!"


def train(workspace, sentiment_files, *words: str) -> Shards:
    """Pretrain in this process; return the held-out rows."""
    args = [*pretrain_args(sentiment_files), "objective.name=causal", "run=r", *words, "train.steps=2"]
    stage.pretrain(load_config(Pretrain, [*args, "train.save_every=2"]))
    (folder,) = (workspace / "out/shards").iterdir()
    return Shards(folder, "held_out")


@pytest.mark.parametrize(
    "architecture, pooling, kinds",
    [
        ("bert", "mean", ("BertModel", "BertLMHeadModel")),
        ("modernbert", "lasttoken", ("ModernBertDecoderModel", "ModernBertDecoderForCausalLM")),
        ("llama", "lasttoken", ("LlamaModel", "LlamaForCausalLM")),
    ],
)
def test_the_folders_load_without_this_project(workspace, sentiment_files, architecture, pooling, kinds):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer, pipeline

    held_out = train(workspace, sentiment_files, f"model.architecture={architecture}", f"pooling={pooling}")
    folder = workspace / "out/runs/r"
    model, tokenizer = (each.from_pretrained(folder / "encoder") for each in (AutoModel, AutoTokenizer))
    assert type(model).__name__ == kinds[0]
    with torch.no_grad():
        states = model.eval()(**tokenizer("a film to remember", return_tensors="pt")).last_hidden_state[0]
        beginning = model(**tokenizer("a film", return_tensors="pt")).last_hidden_state[0, :3]
        assert torch.allclose(beginning, states[:3], atol=1e-5), "no token sees a later one"
        expected = states.mean(0) if pooling == "mean" else states[-1]
    sentences = ["a film to remember", "a film to remember that is longer than the other one"]
    embedding = SentenceTransformer(str(folder / "encoder"), device="cpu").encode(sentences)[0]
    assert torch.allclose(torch.from_numpy(embedding), expected, atol=1e-5)
    generate = pipeline("text-generation", model=str(folder / "generator"), device="cpu")
    assert type(generate.model).__name__ == kinds[1]
    assert generate.tokenizer("a film")["input_ids"] == tokenizer("a film")["input_ids"][:-1], "a text does not end"
    assert generate.model.generation_config.eos_token_id == held_out.special_ids["sep"]
    (output,) = generate("a film", max_new_tokens=4, do_sample=False)
    assert output["generated_text"].startswith("a film")
    logged = json.loads((folder / "metrics.json").read_text())["eval"]
    losses = []
    with torch.no_grad():
        for start, size in held_out.pieces:
            text = torch.tensor([[held_out.special_ids["cls"], *held_out.tokens[start : start + size].tolist()]])
            text = F.pad(text, (0, 1), value=held_out.special_ids["sep"])
            losses += F.cross_entropy(generate.model(input_ids=text).logits[0, :-1], text[0, 1:], reduction="none")
    assert abs(logged["next_token_loss"] - torch.stack(losses).mean().item()) < 1e-3
    assert "most likely continuation" in (folder / "report.html").read_text()


def test_a_decoder_with_one_special_token_is_trained(workspace, sentiment_files):
    write_encoder("gpt2", workspace / "gpt2", "AutoModelForCausalLM")
    train(workspace, sentiment_files, "init=gpt2")
    record = json.loads((workspace / "out/runs/r/encoder/record.json").read_text())
    assert record["config"]["init_fraction"] == 0 and record["pooling"] == "mean"


def test_fine_tuning_an_encoder_reads_in_both_directions(tmp_path):
    from data.tasks.problem_types import load_problem_type
    from finetune.model.text_network import build_text_network

    folder = write_encoder("bert", tmp_path, is_decoder=True)
    problem_type = load_problem_type("single_label_classification")
    model = build_text_network(folder, problem_type, "mean", ["a", "b"], 0.0).model.eval()
    with torch.no_grad():
        one, other = (model(input_ids=torch.tensor([[0, 7, 8, last, 2]])).logits for last in (9, 30))
    assert not model.config.is_decoder and not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["model.architecture=llama"], "model.architecture: llama reads from left to right, which needs"),
        (["objective.name=causal", "pooling=cls"], "pooling: cls is the first token, which sees no other with"),
    ],
)
def test_a_mistake_is_reported_in_one_line(workspace, sentiment_files, capsys, monkeypatch, words, expected):
    args = [*pretrain_args(sentiment_files), "objective.name=mlm", "run=r", "train.steps=2", *words]
    (line,) = [line for line in error_lines(main, args, capsys, monkeypatch) if line.startswith(expected.split(":")[0])]
    assert line.startswith(expected) and not (workspace / "out/runs/r").exists()


@pytest.mark.parametrize(
    "architecture, reason",
    [("fnet", "does not run fnet from left to right"), ("t5", "does not run t5"), ("opt", "its head reads other")],
)
def test_other_architectures_are_refused(tmp_path, architecture, reason):
    auto_class = {"opt": "AutoModelForCausalLM"}.get(architecture, "AutoModel")
    with pytest.raises(DataError, match=reason):
        encoder_from_pretrained(write_encoder(architecture, tmp_path, auto_class), 32, 0.0, None, is_causal=True)
