"""Static token vectors, averaged to the embedding of a text, and the folder they are saved in.

The folder loads as `StaticEmbedding` of sentence-transformers, and as a BERT without layers, which returns the same
vectors, with plain `AutoModel` and everything that fine-tunes or evaluates an encoder.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from data.encoders import POOLING_KEYS
from data.modalities.text import MODALITY
from engine.files import write_folder, write_json
from pretrain.model.encoder import Encoder

ADDED_WIDTH = 2  # coordinates that the normalization of BERT needs, which are zero in its output
STATIC_FOLDER = "0_StaticEmbedding"


class StaticModel(PreTrainedModel):
    """A vector for each token; the states have ADDED_WIDTH zeros at the end, as those of the BERT that is saved."""

    config_class = BertConfig

    def __init__(self, config: BertConfig):
        super().__init__(config)
        width = config.hidden_size - ADDED_WIDTH
        self.embeddings = nn.Embedding(config.vocab_size, width)
        nn.init.uniform_(self.embeddings.weight, -0.5 / width, 0.5 / width)
        self.register_buffer("token_weights", torch.ones(config.vocab_size), persistent=False)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the vectors."""
        return self.embeddings

    def weighted(self) -> Tensor:
        """Return the vectors times the tokens' weights in a mean, (vocabulary, width)."""
        return self.embeddings.weight * self.token_weights[:, None]

    def forward(self, input_ids: Tensor, **unused) -> BaseModelOutput:
        """Return the weighted vectors of token ids (texts, length) as the last hidden states."""
        states = self.embeddings(input_ids) * self.token_weights[input_ids][..., None]
        return BaseModelOutput(F.pad(states, (0, ADDED_WIDTH)))


class StaticEncoder(Encoder):
    """Static vectors in training; `width` is that of the states."""

    def __init__(
        self, token_counts: np.ndarray, width: int, special_ids: dict[str, int], positions: int, smoothing: float | None
    ):
        """token_counts: int64 (vocabulary,); smoothing: a of the weights a / (a + share of the text), none: no weights.

        Weights by smoothed inverse frequency (SIF; Arora et al. 2017) make the rare words of a text count more.
        """
        vocab_size = len(token_counts)
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=width + ADDED_WIDTH,
            num_hidden_layers=0,
            num_attention_heads=1,
            intermediate_size=width,
            max_position_embeddings=positions,
            pad_token_id=special_ids["pad"],
        )
        model = StaticModel(config)
        super().__init__(model, frozenset(name for name, _ in model.named_parameters()))
        with torch.no_grad():
            model.embeddings.weight[list(special_ids.values())] = 0
            if smoothing:
                share = torch.from_numpy(token_counts / max(1, token_counts.sum()))
                model.token_weights.copy_(smoothing / (smoothing + share))

    @property
    def vectors(self) -> nn.Parameter:
        """The vectors, float32 (vocabulary, width)."""
        return self.model.embeddings.weight

    def last_hidden_state(self, input_ids: Tensor, **rows: Tensor) -> Tensor:
        """Return the vectors of packed rows, (rows, length, width)."""
        return self.model(input_ids).last_hidden_state


@torch.no_grad()
def build_layerless_bert(vectors: Tensor, config: BertConfig) -> BertModel:
    """Return a BERT without layers with these vectors as its states, followed by zeros.

    Its embeddings are normalized: to mean 0 and variance 1. Two more coordinates give every vector the mean 0 and the
    same length, so that this changes nothing but the scale, and the scale of the normalization undoes it.
    """
    model = BertModel(config, add_pooling_layer=False)
    total, squares = vectors.double().sum(1), vectors.double().square().sum(1)
    square_length = (squares + total.square() / 2).max() + 1e-3
    root = (2 * (square_length - squares) - total.square()).clamp(min=0).sqrt()
    added = torch.stack([-total + root, -total - root], 1) / 2
    for parameter in model.embeddings.parameters():
        parameter.zero_()
    model.embeddings.word_embeddings.weight.copy_(torch.cat([vectors.double(), added], 1))
    scale = (square_length / config.hidden_size + config.layer_norm_eps).sqrt()
    model.embeddings.LayerNorm.weight[:-ADDED_WIDTH] = scale.float()
    return model


def save_static_encoder(encoder: StaticEncoder, folder: Path, tokenizer_folder: Path, record: dict, card: str) -> None:
    """Write the encoder folder atomically."""

    def fill(path: Path) -> None:
        vectors = encoder.model.weighted().detach().float().cpu()
        build_layerless_bert(vectors, encoder.model.config).save_pretrained(path)
        MODALITY.copy_preprocessor(tokenizer_folder, path)
        for name in (STATIC_FOLDER, "1_Pooling"):
            (path / name).mkdir()
        save_file({"embedding.weight": vectors.contiguous()}, path / STATIC_FOLDER / "model.safetensors")
        (path / STATIC_FOLDER / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
        write_json(path / "1_Pooling" / "config.json", {POOLING_KEYS["mean"]: True})
        kind = "sentence_transformers.models.StaticEmbedding"
        modules = [{"idx": 0, "name": "0", "path": STATIC_FOLDER, "type": kind}]
        (path / "modules.json").write_text(json.dumps(modules, indent=2))
        write_json(path / "record.json", record)
        (path / "README.md").write_text(card, encoding="utf-8")

    write_folder(folder, fill)
