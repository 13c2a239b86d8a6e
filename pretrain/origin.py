"""Where an encoder comes from, a folder or nothing, and what is checked of its architecture before it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, ModernBertConfig, PreTrainedModel
from transformers.utils import logging

from data.encoders import SAFELY, pooling_of, positions_of
from engine import attention
from engine.dropout import put_dropout
from engine.errors import ConfigError, DataError, UserError, first_line
from pretrain.config import Model
from pretrain.encoder import Encoder
from pretrain.trimming import feed_forward, only_at


def quiet() -> None:
    """transformers tells of every file it reads and writes; what a person needs of it, we say."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def continue_from(folder: Path, length: int, dropout: float, pooling: str | None) -> Encoder:
    """The encoder in `folder`, its masked-language head new if it has none.

    Raises DataError when transformers cannot load it, ConfigError when rows are longer than its positions.
    """
    quiet()
    options = {"dtype": torch.float32, "use_safetensors": True, **SAFELY}
    try:
        model, told = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for masked language modelling"
                        f" ({first_line(error)})") from None
    positions = positions_of(model.config)
    if length > positions:
        raise ConfigError(f"length: {length} is more than the {positions} positions of {folder.name or folder}")
    # A pooler has no part in masked language modelling, but who loads the folder with AutoModel expects it.
    plain, missing = AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    own, prefix = model.base_model.state_dict(), model.base_model_prefix
    unused = {f"{prefix}.{name}": tensor for name, tensor in plain.state_dict().items()
              if name not in own and name not in missing["missing_keys"]}
    encoder = Encoder(model, new_parameters(model, told["missing_keys"]), pooling or pooling_of(folder) or "mean", unused)
    return ready(encoder, dropout)


def new_parameters(model: PreTrainedModel, missing: set[str]) -> frozenset[str]:
    """The names, as `named_parameters` gives them, of what a checkpoint did not hold; tied embeddings count as held."""
    lacking = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in missing}
    lacking -= {id(model.get_input_embeddings().weight)}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in lacking)


def from_nothing(shape: Model, special: dict[str, int], vocab_size: int, length: int, dropout: float,
                 pooling: str | None) -> Encoder:
    """A new encoder with random weights. Raises ConfigError for a shape that cannot be."""
    quiet()
    if shape.hidden_size % shape.attention_heads:
        raise ConfigError(f"model.attention_heads: {shape.attention_heads} does not divide"
                          f" model.hidden_size={shape.hidden_size}")
    if length > shape.positions:
        raise ConfigError(f"length: {length} is more than model.positions={shape.positions}")
    common = {"vocab_size": vocab_size, "hidden_size": shape.hidden_size, "num_hidden_layers": shape.layers,
              "num_attention_heads": shape.attention_heads, "intermediate_size": shape.intermediate_size,
              "max_position_embeddings": shape.positions, "pad_token_id": special["pad"]}
    if shape.architecture == "modernbert":
        config = ModernBertConfig(**common, local_attention=shape.local_attention, classifier_pooling="mean",
                                  cls_token_id=special["cls"], bos_token_id=special["cls"],
                                  sep_token_id=special["sep"], eos_token_id=special["sep"])
    else:
        config = BertConfig(**common)
    model = AutoModelForMaskedLM.from_config(config)
    every = frozenset(name for name, _ in model.named_parameters())
    return ready(Encoder(model, every, pooling or "mean"), dropout)


def ready(encoder: Encoder, dropout: float) -> Encoder:
    """Set the dropout (config.json keeps its own, for fine-tuning) and make sure that packed documents stay apart."""
    attention.use(encoder.model)
    encoder.dropout = dropout
    put_dropout(encoder, lambda name: dropout)
    for module in encoder.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    try:
        apart = documents_stay_apart(encoder)
        encoder.ends_in_projection = ends_in_projection(encoder)
        encoder.trimmed = trimmed(encoder)
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{encoder.model.config.model_type}: this architecture does not take packed rows"
                        f" ({str(error).strip().splitlines()[0]})") from None
    if not apart:
        raise DataError(f"{encoder.model.config.model_type}: in this architecture packed documents see each other")
    return encoder


def two_documents(encoder: Encoder) -> dict[str, Tensor]:
    """A row of two documents and some padding, to look at what an architecture does."""
    return {"input_ids": torch.arange(12)[None] % encoder.model.config.vocab_size,
            "position_ids": torch.cat([torch.arange(5), torch.arange(6), torch.zeros(1, dtype=torch.long)])[None],
            "document_ids": torch.tensor([[0] * 5 + [1] * 6 + [-1]])}


@contextmanager
def at_rest(encoder: Encoder) -> Iterator[None]:
    """Neither dropout nor gradients, as training was before afterwards."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.train(was_training)


def documents_stay_apart(encoder: Encoder) -> bool:
    """Whether a packed document's states are what the model itself gives it alone. Hints are ignored silently: we look."""
    with at_rest(encoder):
        rows = two_documents(encoder)
        alone = encoder.model.base_model(input_ids=rows["input_ids"][:, 5:11]).last_hidden_state
        return torch.allclose(encoder.hidden(**rows)[:, 5:11], alone, atol=1e-3)


def ends_in_projection(encoder: Encoder) -> bool:
    """Whether the model's scores are a linear function, its output embeddings, of what comes before them."""
    if not isinstance(encoder.model.get_output_embeddings(), nn.Linear):
        return False
    with at_rest(encoder):
        rows, places, decoder = two_documents(encoder), torch.arange(8), encoder.model.get_output_embeddings()
        states = encoder.head(places, rows, project=False)
        return (states.shape[-1] == decoder.in_features
                and torch.allclose(decoder(states), encoder.vocabulary_logits(places, **rows), atol=1e-4))


def trimmed(encoder: Encoder) -> tuple[nn.Module, ...]:
    """The network's `trimming.feed_forward`, if its scores are the same when that sees only the places they are for."""
    modules, rows, places = feed_forward(encoder.model), two_documents(encoder), torch.tensor([1, 4, 7])
    with at_rest(encoder):
        whole = encoder.vocabulary_logits(places, **rows)
        try:
            with only_at(places, modules):
                return modules if torch.allclose(encoder.vocabulary_logits(places, **rows), whole, atol=1e-4) else ()
        except (RuntimeError, TypeError, IndexError, AttributeError):
            return ()  # a network of another build under the same names
