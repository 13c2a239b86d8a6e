"""The encoder in training: any masked-language model of transformers, fed packed rows; and the folder it leaves behind.

The folder loads with plain `AutoModel`, `AutoModelForMaskedLM` and `SentenceTransformer`; nothing of ours is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.encoders import ROBERTA_LIKE
from data.tokens.tokenizer import TOKENIZER_FILES
from engine.files import write_folder, write_json
from engine.kernels import attention
from engine.kernels.linear_cross_entropy import linear_cross_entropy
from pretrain.model.sparse_ffn import get_layers, sparse_forward


class Encoder(nn.Module):
    """A masked-language model fed packed rows.

    Every method takes rows as `data.tokens.collate.collate_rows` makes them: `input_ids`, `position_ids` and `document_ids`, int64
    (rows, length), where positions start again at each document of a row, padding belongs to document -1, and attention
    stays inside a document; and `cu_seqlens`, which attention without padding on a GPU needs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        new_parameters: frozenset[str] = frozenset(),
        pooling: str = "mean",
        unused_weights: dict[str, Tensor] | None = None,
    ):
        """new: names of the model's parameters that init did not bring; unused_weights: weights kept for who loads the folder."""
        super().__init__()
        self.model, self.new_parameters, self.pooling, self.unused_weights = (
            model,
            new_parameters,
            pooling,
            unused_weights or {},
        )
        self.dropout, self.has_linear_decoder = 0.0, False
        self.sparse_ffn: tuple[nn.Module, ...] = ()

    def model_inputs(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, cu_seqlens: Tensor | None = None
    ) -> dict:
        """What the model's forward takes. Library facts: packing hints alone do not keep documents apart; a mask does."""
        config = self.model.config
        if config.model_type in ROBERTA_LIKE:
            position_ids = position_ids + config.pad_token_id + 1
        given = {"input_ids": input_ids, "position_ids": position_ids}
        if self.dropout == 0 and attention.can_use_varlen(self.model, cu_seqlens):
            mask = near = None
            given["cu_seqlens"] = cu_seqlens
        else:
            mask = (document_ids[:, :, None] == document_ids[:, None, :])[:, None]
        if config.model_type == "modernbert":
            # One tensor would be used for the local layers too, and lose their window.
            if mask is not None:
                near = (position_ids[:, :, None] - position_ids[:, None, :]).abs() <= config.sliding_window
                near = mask & near[:, None]
            mask = {"full_attention": mask, "sliding_attention": near}
        return {**given, "attention_mask": mask}

    def last_hidden_state(self, **rows: Tensor) -> Tensor:
        """Last hidden states, (rows, length, width)."""
        return self.model.base_model(**self.model_inputs(**rows)).last_hidden_state

    def pool(self, hidden_states: Tensor, document_ids: Tensor, num_documents: int) -> Tensor:
        """float32 (count, width): the pooled last hidden states, (rows, length, width), of each document.

        Documents are numbered through all rows, 0 to count, as in `data.tokens.collate.pack_texts`.
        """
        mean, flat = self.pooling == "mean", document_ids.flatten()
        if not mean:
            first = F.pad(flat, (1, 0), value=-1)[:-1] != flat
            flat = flat.where(first, -1)
        # Padding is added up too, in a place of its own: leaving it out would need to know, on a GPU, how much there is.
        total = hidden_states.new_zeros(num_documents + 1, hidden_states.shape[-1], dtype=torch.float32)
        total = total.index_add(0, flat + 1, hidden_states.flatten(0, 1).float())[1:]
        return total / torch.bincount(flat + 1, minlength=num_documents + 1)[1:, None].clamp(min=1) if mean else total

    def apply_mlm_head(
        self,
        masked_indices: Tensor,
        rows: dict[str, Tensor],
        project: bool,
        on_hidden: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """What the model's own head makes of the last hidden states at `masked_indices`: scores, or what they are projected from.

        `on_hidden` is shown all of the last hidden states, (rows, length, width).

        The head never sees the other places: over 30,000 tokens it would cost more than the encoder (Geiping and Goldstein
        2023). A hook between encoder and head picks them, so every architecture's own head serves. Nor does `trimmed`, what
        comes after the last attention, unless all states are looked at.
        """

        def pick(module, arguments, output):
            if on_hidden is not None:
                on_hidden(output.last_hidden_state)
            output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[masked_indices][None]
            return output

        hook, decoder = self.model.base_model.register_forward_hook(pick), self.model.get_output_embeddings()
        try:
            if not project:
                decoder.forward = lambda states: states
            with sparse_forward(masked_indices, self.sparse_ffn if on_hidden is None else ()):
                return self.model(**self.model_inputs(**rows)).logits[0]
        finally:
            hook.remove()
            decoder.__dict__.pop("forward", None)

    def compile_layers(self) -> None:
        """Let torch.compile translate the network's layers, all alike at once; not one that is `trimmed`.

        That one takes another number of places at every step, as the head does. And the forward, not the module: a module's
        hooks would be translated with it, and `head` brings new ones each time.
        """
        layers = get_layers(self.model)
        if not layers:
            self.model.base_model.forward = torch.compile(self.model.base_model.forward)
        for layer in layers[:-1] if self.sparse_ffn else layers:
            layer.forward = torch.compile(layer.forward)

    def hidden_matrices(self) -> set[nn.Parameter]:
        """The weights inside the network that turn states into states: neither embeddings nor the projection."""
        ends = {self.model.get_input_embeddings(), self.model.get_output_embeddings()}
        return {
            module.weight for module in self.model.modules() if isinstance(module, nn.Linear) and module not in ends
        }

    def mlm_logits(self, masked_indices: Tensor, **rows: Tensor) -> Tensor:
        """Scores over the vocabulary, (places, vocabulary); places int64, numbers into the rows laid end to end."""
        return self.apply_mlm_head(masked_indices, rows, project=True)

    def mlm_loss(
        self, masked_indices: Tensor, targets: Tensor, on_hidden: Callable[[Tensor], None] | None = None, **rows: Tensor
    ) -> Tensor:
        """Cross-entropy of `targets`, int64 (places,), summed; `on_hidden` as in `head`."""
        found = self.apply_mlm_head(masked_indices, rows, not self.has_linear_decoder, on_hidden)
        if not self.has_linear_decoder:
            return F.cross_entropy(found.float(), targets, reduction="sum")
        decoder = self.model.get_output_embeddings()
        return linear_cross_entropy(found, decoder.weight, decoder.bias, targets)


def save_encoder(
    encoder: Encoder, folder: Path, tokenizer_folder: Path, record: dict, card: str, with_head: bool = True
) -> None:
    """Write the encoder folder, whole or not at all; `with_head`: with the masked-language head."""

    def fill(path: Path) -> None:
        model, prefix = (
            (encoder.model, "") if with_head else (encoder.model.base_model, f"{encoder.model.base_model_prefix}.")
        )
        unused = {name.removeprefix(prefix): tensor for name, tensor in encoder.unused_weights.items()}
        model.save_pretrained(path, state_dict={**model.state_dict(), **unused})
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copy(tokenizer_folder / name, path / name)
        width, mean = encoder.model.config.hidden_size, encoder.pooling == "mean"
        (path / "1_Pooling").mkdir()
        write_json(
            path / "1_Pooling" / "config.json",
            {
                "word_embedding_dimension": width,
                "pooling_mode_cls_token": not mean,
                "pooling_mode_mean_tokens": mean,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            },
        )
        (path / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                ],
                indent=2,
            )
        )
        write_json(path / "sentence_bert_config.json", {"max_seq_length": record["max_length"], "do_lower_case": False})
        write_json(path / "record.json", record)
        (path / "README.md").write_text(card, encoding="utf-8")

    write_folder(folder, fill)
