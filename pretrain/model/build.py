"""Build the encoder, from a folder or from a configuration, and check that its architecture can be trained here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from data.encoders import read_pooling
from data.tokens.shards import Shards
from engine.errors import ConfigError, DataError, first_line
from engine.files import read_json
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from engine.models.load import check_encoder_weights, is_decoder, load_pretrained
from engine.models.positions import max_positions
from pretrain.config import ModelConfig, Pretrain
from pretrain.model.causal import causal_lm_from_pretrained, new_config, use_fast_operations
from pretrain.model.encoder import Encoder
from pretrain.model.initialization import init_bias_from_frequencies, init_embeddings_from_cooccurrence
from pretrain.model.packing import ignore_pairwise_mask, list_packings
from pretrain.model.sparse_ffn import last_feed_forward, sparse_forward
from pretrain.model.static_encoder import StaticEncoder


def build_encoder(config: Pretrain, init_folder: Path | None, shards: Shards) -> Encoder:
    """Build the initial encoder. Raises DataError when the tokenizer has more tokens than the network embeddings."""
    torch.manual_seed(config.seed)
    if getattr(config.objective, "is_static", False):
        if init_folder:
            raise ConfigError(f"init: {config.objective.name} trains new vectors; leave it out (init=none)")
        silence_transformers()
        shape = (config.model.hidden_size, shards.special_ids, config.model.positions)
        return StaticEncoder(shards.token_counts(), *shape, config.objective.smoothing)
    common = (config.max_length, config.dropout, config.pooling, getattr(config.objective, "is_causal", False))
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


def encoder_from_pretrained(
    folder: Path, max_length: int, dropout: float, pooling: str | None, is_causal: bool = False
) -> Encoder:
    """Load the encoder in `folder`, with a new head if it has none. Raises DataError, and ConfigError for long rows.

    is_causal: read from left to right, with a head that predicts the next token.
    """
    silence_transformers()
    kind = read_json(folder / "config.json").get("model_type")
    if is_causal:
        model, missing = causal_lm_from_pretrained(folder)
    elif kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        other = "; objective.name=causal trains it" if is_decoder(kind) else ""
        reason = f"pretraining needs a masked language model, and transformers has none for {kind}{other}"
        raise DataError(f"{folder}: {reason}")
    else:
        model, missing = load_pretrained(folder, "AutoModelForMaskedLM", "masked language modeling")
    check_encoder_weights(folder, model, missing)
    if model.config.is_encoder_decoder:
        raise DataError(f"{folder}: {kind} has a decoder; pretraining is for encoders only")
    if max_length > (positions := max_positions(model.config) or max_length):
        raise ConfigError(f"max_length: {max_length} is more than the {positions} positions of {folder.name or folder}")
    unused = {} if is_decoder(model.config.model_type) else find_unused_weights(folder, model)
    new_parameters = find_new_parameters(model, missing)
    pooling = choose_pooling(pooling, folder, is_causal)
    return prepare_encoder(Encoder(model, new_parameters, pooling, unused, is_causal), dropout)


def find_unused_weights(folder: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights in a folder that a model with another head lacks, by their names in it.

    Masked language modeling does not use a pooler, but AutoModel expects one in the folder.
    """
    base, base_missing = load_pretrained(folder, "AutoModel")
    used, prefix = model.base_model.state_dict(), model.base_model_prefix
    return {
        f"{prefix}.{name}": tensor
        for name, tensor in base.state_dict().items()
        if name not in used and name not in base_missing
    }


def choose_pooling(pooling: str | None, folder: Path | None, is_causal: bool) -> str:
    """Return the configured pooling, or that of the encoder in `folder`, or mean. Raises ConfigError for a useless one.

    The first token of a text that is read from left to right sees no other.
    """
    if pooling == "cls" and is_causal:
        raise ConfigError("pooling: cls is the first token, which sees no other with objective.name=causal")
    own = read_pooling(folder) if folder else None
    return pooling or (own if own and not (own == "cls" and is_causal) else "mean")


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
    is_causal: bool = False,
) -> Encoder:
    """Build an encoder with random weights. Raises ConfigError for an impossible shape."""
    silence_transformers()
    hidden_size, heads = model_config.hidden_size, model_config.attention_heads
    if hidden_size % heads:
        raise ConfigError(f"model.attention_heads: {heads} does not divide model.hidden_size={hidden_size}")
    if max_length > model_config.positions:
        raise ConfigError(f"max_length: {max_length} is more than model.positions={model_config.positions}")
    config = new_config(model_config, special_ids, vocab_size, is_causal)
    model = (AutoModelForCausalLM if is_causal else AutoModelForMaskedLM).from_config(config)
    new_parameters = frozenset(name for name, _ in model.named_parameters())
    pooling = choose_pooling(pooling, None, is_causal)
    return prepare_encoder(Encoder(model, new_parameters, pooling, is_causal=is_causal), dropout)


def prepare_encoder(encoder: Encoder, dropout: float) -> Encoder:
    """Set dropout, except in config.json, fast paths and the way of packed rows. Raises DataError if there is none."""
    attention.use_fast_attention(encoder.model)
    use_fast_operations(encoder.model)
    if hasattr(encoder.model.base_model, "set_attention_type"):
        # BigBird makes new attention modules, with the dropout of its config, when it first reads a short text.
        encoder.model.base_model.set_attention_type("original_full")
    encoder.dropout = dropout
    replace_dropout(encoder, lambda name: dropout)
    for module in encoder.modules():
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):  # of functions, not of a module
                setattr(module, name, dropout)
    choose_packing(encoder)
    check_head(encoder)
    encoder.has_linear_decoder = has_linear_decoder(encoder)
    # Almost every token is followed by one to predict.
    is_sparse = encoder.packing != "unpacked" and not encoder.is_causal
    encoder.sparse_ffn = find_sparse_ffn(encoder) if is_sparse else ()
    return encoder


def choose_packing(encoder: Encoder) -> None:
    """Choose how the encoder computes packed rows. Raises DataError if documents change each other in every way."""
    packings, reasons = list_packings(encoder.model, encoder.is_causal), []
    if "additive" in packings and (embeddings := getattr(encoder.model.base_model, "embeddings", None)):
        embeddings.register_forward_pre_hook(ignore_pairwise_mask, with_kwargs=True)
    for encoder.packing in packings:
        try:
            if isolates_documents(encoder):
                try_in_training(encoder)
                return
            reasons.append("texts of a batch, or their padding, change each other")
        except Exception as error:
            reasons.append(first_line(error))
    raise DataError(
        f"{encoder.model.config.model_type}: pretraining does not support this architecture ({reasons[-1]})"
    )


def try_in_training(encoder: Encoder) -> None:
    """Compute states in training mode, where some architectures accept rows of one length only."""
    was_training = encoder.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            encoder.train().last_hidden_state(**probe_inputs(encoder))
    finally:
        encoder.train(was_training)


def probe_inputs(encoder: Encoder) -> dict[str, Tensor]:
    """Make one row of two documents and padding, for testing an architecture."""
    config = encoder.model.config
    is_text = torch.arange(min(24, config.vocab_size)) != (config.pad_token_id or 0)
    return {
        "input_ids": is_text.nonzero()[:, 0].repeat(12)[None, :12],
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
    """Check that packed documents have the same states as alone; some architectures silently ignore the mask."""
    with eval_mode(encoder):
        rows = probe_inputs(encoder)
        together = encoder.last_hidden_state(**rows)
        documents, model = rows["input_ids"][:, :11].split((5, 6), 1), encoder.model.base_model
        alone = torch.cat([model(input_ids=ids).last_hidden_state for ids in documents], 1)
        return torch.allclose(together[:, :11], alone, atol=1e-3)


def check_head(encoder: Encoder) -> None:
    """Raise DataError if the head does not read the states of `base_model`, of which positions are picked."""
    with eval_mode(encoder):
        logits = encoder.mlm_logits(torch.arange(8), **probe_inputs(encoder))
    if len(logits) != 8:
        kind = encoder.model.config.model_type
        raise DataError(f"{kind}: pretraining does not support this architecture (its head reads other states)")


def has_linear_decoder(encoder: Encoder) -> bool:
    """Check that the logits are the model's output embeddings applied to the head's hidden states, and nothing else."""
    decoder = encoder.model.get_output_embeddings()
    if not isinstance(decoder, nn.Linear):
        return False
    with eval_mode(encoder):
        rows, indices = probe_inputs(encoder), torch.arange(8)
        try:
            states = encoder.apply_mlm_head(indices, rows, project=False)
        except RuntimeError:  # the head adds a bias of the vocabulary's size
            return False
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
