"""Mean pooling written into the weights, as one more layer of the encoder.

Classification heads of BERT's family read the first token, but an encoder taught with mean pooling keeps a text's meaning
in the mean of its tokens; reading the first instead costs several points at 100 labels. So one layer is added whose
query and key are zero (attention is uniform over the text), whose value is the identity, and whose output is a large
multiple of it, so that the mean outweighs what the token held; its feed-forward part is zero. Every token, the first
included, then holds the normalised mean. The layer's last normalisation also brings each coordinate to mean 0 and
variance 1 over the task's texts: what all texts share, large after masked language modelling, would drown the rest.
What is saved is a plain model of one layer more: nothing of ours is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BERT_FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
MEAN_SCALE = 1e4
MIN_STD = 0.05  # a coordinate nearly the same in all texts is not blown up


def supports_mean_pooling(model: PreTrainedModel) -> bool:
    """Whether the model's layers are shaped like BERT's."""
    return model.config.model_type in BERT_FAMILY


@torch.no_grad()
def add_mean_pooling_layer(model: PreTrainedModel) -> list[nn.Parameter]:
    """Add the layer to a sequence classifier of BERT's family; returns its parameters, which are not to be trained.

    The dense part of the head starts at half the identity, so that its tanh passes the mean on nearly unchanged.
    """
    config, layers = model.config, model.base_model.encoder.layer
    config.num_hidden_layers += 1
    layer = type(layers[0])(config, layer_idx=len(layers))
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
    """Let the dense part of the head give tanh(share * the mean): the smaller the share, the nearer to the mean's direction
    itself, whose length the added layer's normalisation takes away.
    """
    dense = (getattr(model.base_model, "pooler", None) or model.classifier).dense
    dense.weight.copy_(scale * torch.eye(model.config.hidden_size))
    dense.bias.zero_()


def has_mean_pooling_layer(model: PreTrainedModel) -> bool:
    """Whether the model's last layer is the one that `add_mean_pooling_layer` adds."""
    return supports_mean_pooling(model) and not model.base_model.encoder.layer[-1].attention.self.query.weight.any()


@contextmanager
def pool_first_token_only(model: PreTrainedModel) -> Iterator[None]:
    """Within it the added layer, where there is one, gives states (texts, 1, width): the first token's, which the head reads.

    The same mean and the same normalisations as the layer's own weights work out at every token, by a sixth of the work.
    """
    layer = model.base_model.encoder.layer[-1] if has_mean_pooling_layer(model) else None
    if layer is None or "forward" in vars(layer):  # or it is so already
        yield
        return

    def forward(states: Tensor, attention_mask: Tensor | None = None, *_, **__) -> Tensor:
        # (texts, 1, queries, keys): true where attention is allowed, or what is added to scores.
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
    """Set the added layer's last normalisation so that the pooled coordinates of these texts have mean 0, variance 1."""
    model.eval()
    pooled = torch.cat([model.base_model(**inputs).last_hidden_state[:, 0] for inputs in batches])
    norm = model.base_model.encoder.layer[-1].output.LayerNorm
    spread = pooled.std(0) if len(pooled) > 1 else torch.zeros_like(pooled[0])
    spread = spread.clamp(min=MIN_STD)
    norm.weight.copy_(1 / spread)
    norm.bias.copy_(-pooled.mean(0) / spread)
