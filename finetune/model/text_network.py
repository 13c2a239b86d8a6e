"""Text classifiers: plain transformers models with a new last layer on a text encoder."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from data.encoders import describe_lost_modules, read_pooling
from data.modalities.text import MODALITY
from data.tasks.problem_types import ProblemType
from engine.errors import DataError, first_line
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from engine.log import get_logger, warn_once
from engine.models import LOAD_KWARGS
from engine.models.embed import pool
from engine.models.load import is_decoder, load_tokenizer
from finetune.model import mean_pooling
from finetune.model.frozen_cache import FrozenLayerCache
from finetune.model.layerwise import split_layers
from finetune.model.network import Network, label_settings, load_with_new_head, remove_postprocess

logger = get_logger(__name__)

FIRST_TOKEN_POOLING = {"eurobert": "bos"}
"""Names of the pooling of the first token in the configuration of an architecture, where it is not cls."""
POOLER_SCALE = 0.1  # scales the mean vector to where tanh is nearly linear, before a last layer is fitted on it


class TextNetwork(Network):
    """A text model; its last layer may compute the mean of the tokens (`finetune.model.mean_pooling`)."""

    def __init__(self, model: PreTrainedModel):
        self.has_mean_pooling = mean_pooling.has_mean_pooling_layer(model)
        layer = model.base_model.encoder.layer[-1].parameters() if self.has_mean_pooling else ()
        super().__init__(model, layer, len(split_layers(model)) - self.has_mean_pooling)

    def embed_and_classify(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (mean of each text's last hidden states, (texts, width); outputs, (texts, outputs))."""
        output = self.model(**inputs, output_hidden_states=True)
        states = output.hidden_states[-1 - self.has_mean_pooling].float()
        return pool(states, inputs["attention_mask"]), output.logits.float()

    def standardize(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Standardize the means to mean 0 and variance 1 on these texts."""
        if self.has_mean_pooling:
            mean_pooling.standardize_pooling(self.model, batches)

    def prepare_last_layer_fit(self) -> None:
        """Make the dense layer below the last one nearly linear."""
        if self.has_mean_pooling:
            mean_pooling.init_pooler(self.model, POOLER_SCALE)

    def training_forward(self) -> AbstractContextManager:
        """Compute the mean for the first token only, which the head reads."""
        return mean_pooling.pool_first_token_only(self.model)

    def cache_frozen_layers(self, splits: list, folder: Path, memory_mb: int) -> FrozenLayerCache:
        """Return a cache of the frozen layers' states of the texts in `splits`."""
        return FrozenLayerCache(self.model, splits, folder, memory_mb)


def load_model(
    folder: Path, problem_type: ProblemType, label_names: list[str], dropout: float, random_init: bool, use_mean: bool
) -> PreTrainedModel:
    """Load transformers' model for the problem type on the encoder in `folder`. Raise DataError if it cannot."""
    settings = label_settings(problem_type, label_names)
    auto_class, purpose = MODALITY.auto_class(problem_type), problem_type.name.replace("_", " ")
    try:
        config = AutoConfig.from_pretrained(folder, **LOAD_KWARGS)
        old_names = list(config.id2label.values())
        config = AutoConfig.from_pretrained(folder, **settings, **LOAD_KWARGS)
        remove_postprocess(config)
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean" if use_mean else FIRST_TOKEN_POOLING.get(config.model_type, "cls")
        if is_decoder(config.model_type):  # its head reads the last token before the padding
            config.pad_token_id = load_tokenizer(folder).pad_token_id
        elif getattr(config, "is_decoder", False):
            config.is_decoder = False  # its head reads the first token, which would see no other
        random_model = getattr(transformers, auto_class).from_config(config) if random_init else None
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for {purpose} ({first_line(error)})") from None
    model = random_model or load_with_new_head(folder, auto_class, purpose, config, old_names)
    attention.use_fast_attention(model)
    # Dropout of attention weights gains nothing here and rules out the fast attention.
    replace_dropout(model, lambda name: 0.0 if ".self." in name else dropout)
    return model


def build_text_network(
    folder: Path,
    problem_type: ProblemType,
    pooling: str | None,
    label_names: list[str],
    dropout: float,
    random_init: bool = False,
) -> TextNetwork:
    """Return a classifier of texts, pairs or words on the encoder in `folder`. Raise DataError if it cannot be loaded.

    pooling: mean or cls; None: that of the encoder.
    """
    if lost := describe_lost_modules(folder):
        warn_once(lost)
    use_mean = not problem_type.labels_words and (pooling or read_pooling(folder)) == "mean"
    model = load_model(folder, problem_type, label_names, dropout, random_init, use_mean)
    if pooling == "mean" and model.config.is_encoder_decoder:
        kind = f"{model.config.model_type} has a decoder"
        raise DataError(f"{folder}: {kind}, and its head reads no mean of tokens; use head.name=classification")
    if use_mean and not hasattr(model.config, "classifier_pooling"):
        if mean_pooling.supports_mean_pooling(model):
            mean_pooling.add_mean_pooling_layer(model)
        else:
            kind = model.config.model_type
            logger.info(f"note: the head of {kind} reads one token, not the mean of all")
    return TextNetwork(model)
