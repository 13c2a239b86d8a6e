"""Mean pooling written into the weights, as an additional layer of the encoder.

Classification heads of the BERT family read the first token, but an encoder pretrained with mean pooling stores a
text's meaning in the mean of its tokens; reading the first token instead costs several points at 100 labels. In the
added layer, query and key are zero (uniform attention), the value is the identity, the output is a large multiple of
it, so that the mean dominates the residual, and the feed-forward part is zero. Every token, the first included, then
holds the normalized mean. The layer's last normalization also standardizes each coordinate over the task's texts:
the component all texts share, large after masked language modeling, would dominate otherwise. The saved model is a
plain one with one more layer and needs no code of this project.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer

BERT_FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
MEAN_SCALE = 1e4
MIN_STD = 0.05  # do not amplify coordinates that are nearly constant


def supports_mean_pooling(model: PreTrainedModel) -> bool:
    """Return whether the model's layers have BERT's structure."""
    return model.config.model_type in BERT_FAMILY


@torch.no_grad()
def add_mean_pooling_layer(model: PreTrainedModel) -> list[nn.Parameter]:
    """Add the layer to a sequence classifier of the BERT family and return its parameters, which must not be trained.

    The head's dense layer is initialized to half the identity, so that its tanh passes the mean on nearly unchanged.
    """
    config, layers = model.config, model.base_model.encoder.layer
    config.num_hidden_layers += 1
    layer_class = type(layers[0]) if len(layers) else BertLayer  # static vectors are a BERT without layers
    layer = layer_class(config, layer_idx=len(layers))
    identity = torch.eye(config.hidden_size)
    for parameter in layer.parameters():
        parameter.zero_().requires_grad_(False)
    layer.attention.self.value.weight.copy_(identity)
    layer.attention.output.dense.weight.copy_(MEAN_SCALE * identity)
    layer.attention.output.LayerNorm.weight.fill_(1)
    layer.output.LayerNorm.weight.fill_(1)
    for module in layer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    layers.append(layer)
    init_pooler(model, 0.5)
    return list(layer.parameters())


@torch.no_grad()
def init_pooler(model: PreTrainedModel, scale: float) -> None:
    """Make the head's dense layer return tanh(scale * mean), which is nearly linear for a small scale."""
    dense = (getattr(model.base_model, "pooler", None) or model.classifier).dense
    dense.weight.copy_(scale * torch.eye(model.config.hidden_size))
    dense.bias.zero_()


def has_mean_pooling_layer(model: PreTrainedModel) -> bool:
    """Return whether the model's last layer was added by `add_mean_pooling_layer`."""
    layers = model.base_model.encoder.layer if supports_mean_pooling(model) else []
    return len(layers) > 0 and not layers[-1].attention.self.query.weight.any()


@contextmanager
def pool_first_token_only(model: PreTrainedModel) -> Iterator[None]:
    """Compute the added layer, if there is one, only for the first token, which the head reads, at a sixth of the cost.

    The layer returns states (texts, 1, width), with the same mean and normalizations as from its own weights.
    """
    layer = model.base_model.encoder.layer[-1] if has_mean_pooling_layer(model) else None
    if layer is None or "forward" in vars(layer):  # already replaced
        yield
        return

    def forward(states: Tensor, attention_mask: Tensor | None = None, *_, **__) -> Tensor:
        # (texts, 1, queries, keys): bool, true for tokens to attend to, or an additive mask.
        mask = torch.ones(states.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask[:, 0, 0]
        weights = (mask if mask.dtype == torch.bool else mask == 0).to(states.device, torch.float32)[..., None]
        mean = (states.float() * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return layer.output.LayerNorm(layer.attention.output.LayerNorm(MEAN_SCALE * mean + states[:, :1].float()))

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


@torch.no_grad()
def standardize_pooling(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]]) -> None:
    """Set the added layer's last normalization so that the pooled coordinates of the texts have mean 0, variance 1."""
    model.eval()
    pooled = torch.cat([model.base_model(**inputs).last_hidden_state[:, 0] for inputs in batches])
    norm = model.base_model.encoder.layer[-1].output.LayerNorm
    std = (pooled.std(0) if len(pooled) > 1 else torch.zeros_like(pooled[0])).clamp(min=MIN_STD)
    norm.weight.copy_(1 / std)
    norm.bias.copy_(-pooled.mean(0) / std)
