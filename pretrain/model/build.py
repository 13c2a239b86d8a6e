"""Build the encoder, from a folder or from a configuration, and check that its architecture can be trained here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, ModernBertConfig, PreTrainedModel
from transformers.utils import logging

from data.encoders import max_positions, read_pooling
from data.tokens.shards import Shards
from engine.errors import ConfigError, DataError, UserError, first_line
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from engine.models import LOAD_WEIGHTS_KWARGS
from pretrain.config import ModelConfig, Pretrain
from pretrain.model.encoder import Encoder
from pretrain.model.initialization import init_bias_from_frequencies, init_embeddings_from_cooccurrence
from pretrain.model.sparse_ffn import last_feed_forward, sparse_forward


def build_encoder(config: Pretrain, init_folder: Path | None, shards: Shards) -> Encoder:
    """Build the initial encoder. Raises DataError when the tokenizer has more tokens than the network embeddings."""
    torch.manual_seed(config.seed)
    common = (config.max_length, config.dropout, config.pooling)
    if init_folder:
        encoder = encoder_from_pretrained(init_folder, *common)
    else:
        encoder = encoder_from_config(config.model, shards.special_ids, shards.vocab_size, *common)
    num_embeddings = encoder.model.get_input_embeddings().num_embeddings
    if shards.vocab_size > num_embeddings:
        counts = f"{shards.vocab_size:,} tokens, its network only {num_embeddings:,} embeddings"
        raise DataError(f"{config.init}: its tokenizer has {counts}")
    init_bias_from_frequencies(encoder, shards.token_counts())
    if not init_folder and config.model.embeddings == "cooccurrence":
        init_embeddings_from_cooccurrence(encoder, shards, config.seed)
    return encoder


def silence_transformers() -> None:
    """Turn off the messages and progress bars of transformers."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def encoder_from_pretrained(folder: Path, max_length: int, dropout: float, pooling: str | None) -> Encoder:
    """Load the encoder in `folder`, with a new head if it has none. Raises DataError, and ConfigError for long rows."""
    silence_transformers()
    options = {"dtype": torch.float32, "output_loading_info": True}
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(folder, **options, **LOAD_WEIGHTS_KWARGS)
    except Exception as error:
        reason = f"transformers cannot load it for masked language modeling ({first_line(error)})"
        raise DataError(f"{folder}: {reason}") from None
    positions = max_positions(model.config)
    if max_length > positions:
        raise ConfigError(f"max_length: {max_length} is more than the {positions} positions of {folder.name or folder}")
    # Masked language modeling does not use a pooler, but AutoModel expects one in the folder.
    base, base_info = AutoModel.from_pretrained(folder, **options, **LOAD_WEIGHTS_KWARGS)
    used, prefix = model.base_model.state_dict(), model.base_model_prefix
    unused = {
        f"{prefix}.{name}": tensor
        for name, tensor in base.state_dict().items()
        if name not in used and name not in base_info["missing_keys"]
    }
    new_parameters = find_new_parameters(model, info["missing_keys"])
    return prepare_encoder(Encoder(model, new_parameters, pooling or read_pooling(folder) or "mean", unused), dropout)


def find_new_parameters(model: PreTrainedModel, missing_keys: set[str]) -> frozenset[str]:
    """Return the names, as in `named_parameters`, of parameters missing from a checkpoint; tied embeddings are not."""
    named = model.named_parameters(remove_duplicate=False)
    missing = {id(parameter) for name, parameter in named if name in missing_keys}
    missing -= {id(model.get_input_embeddings().weight)}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in missing)


def encoder_from_config(
    model_config: ModelConfig,
    special_ids: dict[str, int],
    vocab_size: int,
    max_length: int,
    dropout: float,
    pooling: str | None,
) -> Encoder:
    """Build an encoder with random weights. Raises ConfigError for an impossible shape."""
    silence_transformers()
    hidden_size, heads = model_config.hidden_size, model_config.attention_heads
    if hidden_size % heads:
        raise ConfigError(f"model.attention_heads: {heads} does not divide model.hidden_size={hidden_size}")
    if max_length > model_config.positions:
        raise ConfigError(f"max_length: {max_length} is more than model.positions={model_config.positions}")
    common = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": model_config.layers,
        "num_attention_heads": heads,
        "intermediate_size": model_config.intermediate_size,
        "max_position_embeddings": model_config.positions,
        "pad_token_id": special_ids["pad"],
    }
    if model_config.architecture == "modernbert":
        common |= {
            f"{name}_token_id": special_ids[names[0]] for names in (("cls", "bos"), ("sep", "eos")) for name in names
        }
        config = ModernBertConfig(**common, local_attention=model_config.local_attention, classifier_pooling="mean")
    else:
        config = BertConfig(**common)
    model = AutoModelForMaskedLM.from_config(config)
    new_parameters = frozenset(name for name, _ in model.named_parameters())
    return prepare_encoder(Encoder(model, new_parameters, pooling or "mean"), dropout)


def prepare_encoder(encoder: Encoder, dropout: float) -> Encoder:
    """Set dropout, except in config.json, and fast paths. Raises DataError if packed documents attend to each other."""
    attention.use_fast_attention(encoder.model)
    encoder.dropout = dropout
    replace_dropout(encoder, lambda name: dropout)
    for module in encoder.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    model_type = encoder.model.config.model_type
    try:
        isolated = isolates_documents(encoder)
        encoder.has_linear_decoder = has_linear_decoder(encoder)
        encoder.sparse_ffn = find_sparse_ffn(encoder)
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{model_type}: this architecture does not take packed rows ({first_line(error)})") from None
    if not isolated:
        raise DataError(f"{model_type}: in this architecture packed documents attend to each other")
    return encoder


def probe_inputs(encoder: Encoder) -> dict[str, Tensor]:
    """Make one row of two documents and padding, for testing an architecture."""
    return {
        "input_ids": torch.arange(12)[None] % encoder.model.config.vocab_size,
        "position_ids": torch.cat([torch.arange(5), torch.arange(6), torch.zeros(1, dtype=torch.long)])[None],
        "document_ids": torch.tensor([[0] * 5 + [1] * 6 + [-1]]),
    }


@contextmanager
def eval_mode(encoder: Encoder) -> Iterator[None]:
    """Disable dropout and gradients, and restore the previous mode on exit."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.train(was_training)


def isolates_documents(encoder: Encoder) -> bool:
    """Check that a packed document has the same states as alone; some architectures silently ignore the mask."""
    with eval_mode(encoder):
        rows = probe_inputs(encoder)
        alone = encoder.model.base_model(input_ids=rows["input_ids"][:, 5:11]).last_hidden_state
        return torch.allclose(encoder.last_hidden_state(**rows)[:, 5:11], alone, atol=1e-3)


def has_linear_decoder(encoder: Encoder) -> bool:
    """Check that the logits are the model's output embeddings applied to the head's hidden states, and nothing else."""
    decoder = encoder.model.get_output_embeddings()
    if not isinstance(decoder, nn.Linear):
        return False
    with eval_mode(encoder):
        rows, indices = probe_inputs(encoder), torch.arange(8)
        states = encoder.apply_mlm_head(indices, rows, project=False)
        if states.shape[-1] != decoder.in_features:
            return False
        return torch.allclose(decoder(states), encoder.mlm_logits(indices, **rows), atol=1e-4)


def find_sparse_ffn(encoder: Encoder) -> tuple[nn.Module, ...]:
    """Return the model's `last_feed_forward` if computing it at the masked positions alone gives the same logits."""
    modules, rows, indices = last_feed_forward(encoder.model), probe_inputs(encoder), torch.tensor([1, 4, 7])
    with eval_mode(encoder):
        logits = encoder.mlm_logits(indices, **rows)
        try:
            with sparse_forward(indices, modules):
                return modules if torch.allclose(encoder.mlm_logits(indices, **rows), logits, atol=1e-4) else ()
        except (RuntimeError, TypeError, IndexError, AttributeError):
            return ()  # another architecture with the same module names
