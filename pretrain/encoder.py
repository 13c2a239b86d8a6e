"""The encoder in training: any masked-language model of transformers, fed packed rows; and the folder it leaves behind.

The folder loads with plain `AutoModel`, `AutoModelForMaskedLM` and `SentenceTransformer`; nothing of ours is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, ModernBertConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from data.encoders import pooling_of
from data.tokenizer import FILES
from engine import attention
from engine.errors import ConfigError, DataError, UserError
from engine.files import write_json, write_whole
from pretrain.config import Model
from pretrain.vocabulary import linear_cross_entropy

# Positions count on from the padding token's id.
ROBERTA_LIKE = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text")


class Encoder(nn.Module):
    """A masked-language model fed packed rows.

    Every method takes rows as `data.batches.packed` makes them: `input_ids`, `position_ids` and `document_ids`, int64
    (rows, length), where positions start again at each document of a row, padding belongs to document -1, and attention
    stays inside a document; and `document_bounds`, which attention without padding on a GPU needs.
    """

    def __init__(self, model: PreTrainedModel, new: frozenset[str] = frozenset(), pooling: str = "mean",
                 unused: dict[str, Tensor] | None = None):
        """new: names of the model's parameters that init did not bring; unused: weights kept for who loads the folder."""
        super().__init__()
        self.model, self.new, self.pooling, self.unused = model, new, pooling, unused or {}
        self.dropout, self.ends_in_projection = 0.0, False

    def inputs(self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor,
               document_bounds: Tensor | None = None) -> dict:
        """What the model's forward takes. Library facts: packing hints alone do not keep documents apart; a mask does."""
        config = self.model.config
        if config.model_type in ROBERTA_LIKE:
            position_ids = position_ids + config.pad_token_id + 1
        given = {"input_ids": input_ids, "position_ids": position_ids}
        if self.dropout == 0 and attention.goes_by_document(self.model, document_bounds):
            mask = near = None
            given["document_bounds"] = document_bounds
        else:
            mask = (document_ids[:, :, None] == document_ids[:, None, :])[:, None]
        if config.model_type == "modernbert":
            # One tensor would be used for the local layers too, and lose their window.
            if mask is not None:
                near = (position_ids[:, :, None] - position_ids[:, None, :]).abs() <= config.sliding_window
                near = mask & near[:, None]
            mask = {"full_attention": mask, "sliding_attention": near}
        return {**given, "attention_mask": mask}

    def hidden(self, **rows: Tensor) -> Tensor:
        """Last hidden states, (rows, length, width)."""
        return self.model.base_model(**self.inputs(**rows)).last_hidden_state

    def vectors(self, states: Tensor, document_ids: Tensor, count: int) -> Tensor:
        """float32 (count, width): the pooled last hidden states, (rows, length, width), of each document.

        Documents are numbered through all rows, 0 to count, as in `data.batches.laid_out`.
        """
        mean, flat = self.pooling == "mean", document_ids.flatten()
        if not mean:
            first = F.pad(flat, (1, 0), value=-1)[:-1] != flat
            flat = flat.where(first, -1)
        # Padding is added up too, in a place of its own: leaving it out would need to know, on a GPU, how much there is.
        total = states.new_zeros(count + 1, states.shape[-1], dtype=torch.float32)
        total = total.index_add(0, flat + 1, states.flatten(0, 1).float())[1:]
        return total / torch.bincount(flat + 1, minlength=count + 1)[1:, None].clamp(min=1) if mean else total

    def head(self, places: Tensor, rows: dict[str, Tensor], project: bool,
             look: Callable[[Tensor], None] = lambda states: None) -> Tensor:
        """What the model's own head makes of the last hidden states at `places`: scores, or what they are projected from.

        `look` is shown all of the last hidden states, (rows, length, width).

        The head never sees the other places: over 30,000 tokens it would cost more than the encoder (Geiping and Goldstein
        2023). A hook between encoder and head picks them, so every architecture's own head serves.
        """
        def pick(module, arguments, output):
            look(output.last_hidden_state)
            output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[places][None]
            return output

        hook, decoder = self.model.base_model.register_forward_hook(pick), self.model.get_output_embeddings()
        try:
            if not project:
                decoder.forward = lambda states: states
            return self.model(**self.inputs(**rows)).logits[0]
        finally:
            hook.remove()
            decoder.__dict__.pop("forward", None)

    def compile_trunk(self) -> None:
        """Let torch.compile translate the network up to its last hidden states.

        Not the head, which takes another number of places at every step. And the forward, not the module: a module's hooks
        would be translated with it, and `head` brings a new one each time.
        """
        trunk = self.model.base_model
        trunk.forward = torch.compile(trunk.forward)

    def matrices(self) -> set[nn.Parameter]:
        """The weights inside the network that turn states into states: neither embeddings nor the projection."""
        ends = {self.model.get_input_embeddings(), self.model.get_output_embeddings()}
        return {module.weight for module in self.model.modules() if isinstance(module, nn.Linear) and module not in ends}

    def vocabulary_logits(self, places: Tensor, **rows: Tensor) -> Tensor:
        """Scores over the vocabulary, (places, vocabulary); places int64, numbers into the rows laid end to end."""
        return self.head(places, rows, project=True)

    def vocabulary_loss(self, places: Tensor, targets: Tensor, look: Callable[[Tensor], None] = lambda states: None,
                        **rows: Tensor) -> Tensor:
        """Cross-entropy of `targets`, int64 (places,), summed; `look` as in `head`."""
        found = self.head(places, rows, not self.ends_in_projection, look)
        if not self.ends_in_projection:
            return F.cross_entropy(found.float(), targets, reduction="sum")
        decoder = self.model.get_output_embeddings()
        return linear_cross_entropy(found, decoder.weight, decoder.bias, targets)


def positions_of(config: PretrainedConfig) -> int:
    """The longest row of tokens a network takes."""
    return config.max_position_embeddings - 2 * (config.model_type in ROBERTA_LIKE)


def quiet() -> None:
    """transformers tells of every file it reads and writes; what a person needs of it, we say."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def continue_from(folder: Path, length: int, dropout: float, pooling: str | None) -> Encoder:
    """The encoder in `folder`, its masked-language head new if it has none.

    Raises DataError when transformers cannot load it, ConfigError when rows are longer than its positions.
    """
    quiet()
    options = {"dtype": torch.float32, "use_safetensors": True}
    try:
        model, told = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for masked language modelling"
                        f" ({str(error).strip().splitlines()[0]})") from None
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
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    try:
        apart = documents_stay_apart(encoder)
        encoder.ends_in_projection = ends_in_projection(encoder)
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


def save(encoder: Encoder, folder: Path, tokenizer: Path, record: dict, card: str, with_head: bool = True) -> None:
    """Write the encoder folder, whole or not at all; `with_head`: with the masked-language head."""
    def fill(path: Path) -> None:
        model, prefix = (encoder.model, "") if with_head else (encoder.model.base_model, f"{encoder.model.base_model_prefix}.")
        unused = {name.removeprefix(prefix): tensor for name, tensor in encoder.unused.items()}
        model.save_pretrained(path, state_dict={**model.state_dict(), **unused})
        for name in FILES:
            if (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, path / name)
        width, mean = encoder.model.config.hidden_size, encoder.pooling == "mean"
        (path / "1_Pooling").mkdir()
        write_json(path / "1_Pooling" / "config.json", {
            "word_embedding_dimension": width, "pooling_mode_cls_token": not mean, "pooling_mode_mean_tokens": mean,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
        (path / "modules.json").write_text(json.dumps([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}], indent=2))
        write_json(path / "sentence_bert_config.json", {"max_seq_length": record["longest_text"], "do_lower_case": False})
        write_json(path / "record.json", record)
        (path / "README.md").write_text(card, encoding="utf-8")

    write_whole(folder, fill)
