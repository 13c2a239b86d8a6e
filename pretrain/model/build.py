"""Where an encoder comes from, a folder or nothing, and what is checked of its architecture before it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, ModernBertConfig, PreTrainedModel
from transformers.utils import logging

from data.encoders import LOAD_KWARGS, max_positions, read_pooling
from engine.errors import ConfigError, DataError, UserError, first_line
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from pretrain.config import ModelConfig
from pretrain.model.encoder import Encoder
from pretrain.model.sparse_ffn import last_feed_forward, sparse_forward


def silence_transformers() -> None:
    """Transformers tells of every file it reads and writes; what a person needs of it, we say."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def encoder_from_pretrained(folder: Path, max_length: int, dropout: float, pooling: str | None) -> Encoder:
    """The encoder in `folder`, its masked-language head new if it has none.

    Raises DataError when transformers cannot load it, ConfigError when rows are longer than its positions.
    """
    silence_transformers()
    options = {"dtype": torch.float32, "use_safetensors": True, **LOAD_KWARGS}
    try:
        model, told = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        raise DataError(
            f"{folder}: transformers cannot load it for masked language modelling ({first_line(error)})"
        ) from None
    positions = max_positions(model.config)
    if max_length > positions:
        raise ConfigError(f"length: {max_length} is more than the {positions} positions of {folder.name or folder}")
    # A pooler has no part in masked language modelling, but who loads the folder with AutoModel expects it.
    plain, missing = AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    own, prefix = model.base_model.state_dict(), model.base_model_prefix
    unused = {
        f"{prefix}.{name}": tensor
        for name, tensor in plain.state_dict().items()
        if name not in own and name not in missing["missing_keys"]
    }
    encoder = Encoder(
        model, find_new_parameters(model, told["missing_keys"]), pooling or read_pooling(folder) or "mean", unused
    )
    return prepare_encoder(encoder, dropout)


def find_new_parameters(model: PreTrainedModel, missing_keys: set[str]) -> frozenset[str]:
    """The names, as `named_parameters` gives them, of what a checkpoint did not hold; tied embeddings count as held."""
    lacking = {
        id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in missing_keys
    }
    lacking -= {id(model.get_input_embeddings().weight)}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in lacking)


def encoder_from_config(
    model_config: ModelConfig,
    special_ids: dict[str, int],
    vocab_size: int,
    max_length: int,
    dropout: float,
    pooling: str | None,
) -> Encoder:
    """A new encoder with random weights. Raises ConfigError for a shape that cannot be."""
    silence_transformers()
    if model_config.hidden_size % model_config.attention_heads:
        raise ConfigError(
            f"model.attention_heads: {model_config.attention_heads} does not divide"
            f" model.hidden_size={model_config.hidden_size}"
        )
    if max_length > model_config.positions:
        raise ConfigError(f"length: {max_length} is more than model.positions={model_config.positions}")
    common = {
        "vocab_size": vocab_size,
        "hidden_size": model_config.hidden_size,
        "num_hidden_layers": model_config.layers,
        "num_attention_heads": model_config.attention_heads,
        "intermediate_size": model_config.intermediate_size,
        "max_position_embeddings": model_config.positions,
        "pad_token_id": special_ids["pad"],
    }
    if model_config.architecture == "modernbert":
        config = ModernBertConfig(
            **common,
            local_attention=model_config.local_attention,
            classifier_pooling="mean",
            cls_token_id=special_ids["cls"],
            bos_token_id=special_ids["cls"],
            sep_token_id=special_ids["sep"],
            eos_token_id=special_ids["sep"],
        )
    else:
        config = BertConfig(**common)
    model = AutoModelForMaskedLM.from_config(config)
    every = frozenset(name for name, _ in model.named_parameters())
    return prepare_encoder(Encoder(model, every, pooling or "mean"), dropout)


def prepare_encoder(encoder: Encoder, dropout: float) -> Encoder:
    """Set the dropout (config.json keeps its own, for fine-tuning) and make sure that packed documents stay apart."""
    attention.use_fast_attention(encoder.model)
    encoder.dropout = dropout
    replace_dropout(encoder, lambda name: dropout)
    for module in encoder.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    try:
        apart = isolates_documents(encoder)
        encoder.has_linear_decoder = has_linear_decoder(encoder)
        encoder.sparse_ffn = find_sparse_ffn(encoder)
    except UserError:
        raise
    except Exception as error:
        raise DataError(
            f"{encoder.model.config.model_type}: this architecture does not take packed rows"
            f" ({str(error).strip().splitlines()[0]})"
        ) from None
    if not apart:
        raise DataError(f"{encoder.model.config.model_type}: in this architecture packed documents see each other")
    return encoder


def probe_inputs(encoder: Encoder) -> dict[str, Tensor]:
    """A row of two documents and some padding, to look at what an architecture does."""
    return {
        "input_ids": torch.arange(12)[None] % encoder.model.config.vocab_size,
        "position_ids": torch.cat([torch.arange(5), torch.arange(6), torch.zeros(1, dtype=torch.long)])[None],
        "document_ids": torch.tensor([[0] * 5 + [1] * 6 + [-1]]),
    }


@contextmanager
def eval_mode(encoder: Encoder) -> Iterator[None]:
    """Neither dropout nor gradients, as training was before afterwards."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.train(was_training)


def isolates_documents(encoder: Encoder) -> bool:
    """Whether a packed document's states are what the model itself gives it alone. Hints are ignored silently: we look."""
    with eval_mode(encoder):
        rows = probe_inputs(encoder)
        alone = encoder.model.base_model(input_ids=rows["input_ids"][:, 5:11]).last_hidden_state
        return torch.allclose(encoder.last_hidden_state(**rows)[:, 5:11], alone, atol=1e-3)


def has_linear_decoder(encoder: Encoder) -> bool:
    """Whether the model's scores are a linear function, its output embeddings, of what comes before them."""
    if not isinstance(encoder.model.get_output_embeddings(), nn.Linear):
        return False
    with eval_mode(encoder):
        rows, places, decoder = probe_inputs(encoder), torch.arange(8), encoder.model.get_output_embeddings()
        states = encoder.apply_mlm_head(places, rows, project=False)
        return states.shape[-1] == decoder.in_features and torch.allclose(
            decoder(states), encoder.mlm_logits(places, **rows), atol=1e-4
        )


def find_sparse_ffn(encoder: Encoder) -> tuple[nn.Module, ...]:
    """The network's `trimming.feed_forward`, if its scores are the same when that sees only the places they are for."""
    modules, rows, places = last_feed_forward(encoder.model), probe_inputs(encoder), torch.tensor([1, 4, 7])
    with eval_mode(encoder):
        whole = encoder.mlm_logits(places, **rows)
        try:
            with sparse_forward(places, modules):
                return modules if torch.allclose(encoder.mlm_logits(places, **rows), whole, atol=1e-4) else ()
        except (RuntimeError, TypeError, IndexError, AttributeError):
            return ()  # a network of another build under the same names
