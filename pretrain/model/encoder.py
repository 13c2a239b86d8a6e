"""The encoder in training, any masked-language model of transformers on packed rows, and the folder it is saved in.

The folder loads with plain `AutoModel`, `AutoModelForMaskedLM` and `SentenceTransformer`, without this project.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.encoders import POOLING_KEYS, list_modules
from data.modalities.text import MODALITY
from engine.files import read_json, write_folder, write_json
from engine.kernels import attention
from engine.kernels.linear_cross_entropy import linear_cross_entropy
from engine.kernels.take_rows import take_rows
from engine.models.foreign import remove_foreign_keys
from engine.models.positions import position_offset
from pretrain.model.base import BaseEncoder
from pretrain.model.packing import Restore, build_mask, unpack_rows
from pretrain.model.sparse_ffn import get_layers, sparse_forward

OnHidden = Callable[[Tensor], None] | None
ST_CONFIG_NAME = "config_sentence_transformers.json"
MAX_TOKENIZER_LENGTH = 10**9  # transformers saves a larger number for a tokenizer without a limit


class Encoder(BaseEncoder):
    """A masked-language model on packed rows.

    Every method takes rows as made by `data.tokens.collate.collate_rows`: `input_ids`, `position_ids` and
    `document_ids`, int64 (rows, length). Positions restart at each document of a row, padding is document -1, and
    attention stays inside a document. Variable-length attention on a GPU also needs `cu_seqlens`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        new_parameters: frozenset[str] = frozenset(),
        pooling: str = "mean",
        unused_weights: dict[str, Tensor] | None = None,
        is_causal: bool = False,
    ):
        """new_parameters: names of those not loaded from init; unused_weights: saved with the model, not trained."""
        super().__init__(model, model.config.hidden_size, new_parameters)
        self.pooling, self.is_causal = pooling, is_causal
        self.unused_weights, self.dropout, self.has_linear_decoder = unused_weights or {}, 0.0, False
        self.sparse_ffn: tuple[nn.Module, ...] = ()
        self.packing, self.position_offset = "mask", position_offset(model)
        self.options = {"use_cache": False} if is_causal else {}

    def model_inputs(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, cu_seqlens: Tensor | None = None
    ) -> tuple[dict, Restore]:
        """Return (arguments of the model's forward; function from its states to those of the rows)."""
        config = self.model.config
        if self.packing == "unpacked":
            inputs, restore = unpack_rows(input_ids, position_ids, document_ids, config.pad_token_id or 0)
            return {**inputs, **self.options}, restore
        inputs = {"input_ids": input_ids, "position_ids": position_ids + self.position_offset, **self.options}
        # The windows of attention of variable length are on both sides.
        if self.dropout == 0 and not self.is_causal and attention.can_use_varlen(self.model, cu_seqlens):
            mask = near = None
            inputs["cu_seqlens"] = cu_seqlens
        else:
            mask = build_mask(document_ids, self.packing, self.is_causal)
        if config.model_type in ("modernbert", "modernbert-decoder"):
            # A single tensor would be used for the local layers too, without their window.
            if mask is not None:
                distance = (position_ids[:, :, None] - position_ids[:, None, :]).abs()
                # That of the decoder has the token itself and those before it.
                near = mask & (distance <= config.sliding_window - self.is_causal)[:, None]
            mask = {"full_attention": mask, "sliding_attention": near}
        return {**inputs, "attention_mask": mask}, lambda states: states

    def last_hidden_state(self, **rows: Tensor) -> Tensor:
        """Compute the last hidden states, (rows, length, width)."""
        inputs, restore = self.model_inputs(**rows)
        return restore(self.model.base_model(**inputs).last_hidden_state)

    def embed(self, num_inputs: int, **inputs: Tensor) -> Tensor:
        """Return the embeddings of the `num_inputs` documents in the rows, float32 (documents, width)."""
        return self.pool(self.last_hidden_state(**inputs), inputs["document_ids"], num_inputs)

    def pool(self, hidden_states: Tensor, document_ids: Tensor, num_documents: int) -> Tensor:
        """Pool hidden states (rows, length, width) by document, numbered across rows: float32 (documents, width)."""
        mean, flat = self.pooling == "mean", document_ids.flatten()
        if not mean:
            before, after = F.pad(flat, (1, 0), value=-1)[:-1], F.pad(flat, (0, 1), value=-1)[1:]
            flat = flat.where((before if self.pooling == "cls" else after) != flat, -1)
        # Padding is summed as one more document: removing it, as counting with bincount, would synchronize.
        total = hidden_states.new_zeros(num_documents + 1, hidden_states.shape[-1], dtype=torch.float32)
        total = total.index_add(0, flat + 1, hidden_states.flatten(0, 1).float())[1:]
        if not mean:
            return total
        counts = total.new_zeros(num_documents + 1).index_add_(0, flat + 1, torch.ones_like(flat, dtype=total.dtype))
        return total / counts[1:, None].clamp(min=1)

    def apply_mlm_head(self, masked_indices: Tensor, rows: dict, project: bool, on_hidden: OnHidden = None) -> Tensor:
        """Apply the model's own head at `masked_indices`; without `project`, leave out its output projection.

        `on_hidden` gets all last hidden states, (rows, length, width). The head skips other positions, because with a
        large vocabulary it costs more than the encoder (Geiping and Goldstein 2023), and so does `sparse_ffn` unless
        `on_hidden` is given. Selecting the positions by a hook works for the head of any architecture.
        """
        inputs, restore = self.model_inputs(**rows)

        def pick(module, arguments, output):
            states = restore(output.last_hidden_state)
            if on_hidden is not None:
                on_hidden(states)
            output.last_hidden_state = take_rows(states.flatten(0, 1), masked_indices)[None]
            return output

        hook, decoder = self.model.base_model.register_forward_hook(pick), self.model.get_output_embeddings()
        try:
            if not project:
                decoder.forward = lambda states: states
            with sparse_forward(masked_indices, self.sparse_ffn if on_hidden is None else ()):
                return self.model(**inputs).logits[0]
        finally:
            hook.remove()
            decoder.__dict__.pop("forward", None)

    def compile_layers(self) -> None:
        """Compile the layers with torch.compile, except the one with `sparse_ffn`, as its shapes change every step."""
        # Forwards are compiled, not modules, so that the hooks of `apply_mlm_head` are not.
        layers = get_layers(self.model)
        if not layers:
            self.model.base_model.forward = torch.compile(self.model.base_model.forward)
        for layer in layers[:-1] if self.sparse_ffn else layers:
            layer.forward = torch.compile(layer.forward)

    def mlm_logits(self, masked_indices: Tensor, **rows: Tensor) -> Tensor:
        """Compute logits, (masked, vocabulary), at `masked_indices`, int64 indices into the flattened rows."""
        return self.apply_mlm_head(masked_indices, rows, project=True)

    def mlm_loss(self, masked_indices: Tensor, targets: Tensor, on_hidden: OnHidden = None, **rows: Tensor) -> Tensor:
        """Compute the summed cross-entropy of `targets`, int64 (masked,); `on_hidden` as in `apply_mlm_head`."""
        output = self.apply_mlm_head(masked_indices, rows, not self.has_linear_decoder, on_hidden)
        if not self.has_linear_decoder:
            return F.cross_entropy(output.float(), targets, reduction="sum")
        decoder = self.model.get_output_embeddings()
        return linear_cross_entropy(output, decoder.weight, decoder.bias, targets)


def read_init_modules(folder: Path) -> tuple[list[str], dict, int | None]:
    """Read what is kept of an encoder's sentence-transformers configuration.

    Returns (kinds of its modules; its prompts and similarity, as in ST_CONFIG_NAME; the tokens of a text it reads).
    """
    names = ST_CONFIG_NAME, "sentence_bert_config.json", "tokenizer_config.json"
    saved, transformer, tokenizer = (read_json(folder / name) if (folder / name).is_file() else {} for name in names)
    kept, modules = {}, list_modules(folder)
    if any((saved.get("prompts") or {}).values()):
        kept = {key: saved[key] for key in ("prompts", "default_prompt_name") if saved.get(key)}
    if saved.get("similarity_fn_name") not in (None, "cosine"):  # cosine is the default
        kept["similarity_fn_name"] = saved["similarity_fn_name"]
    length = transformer.get("max_seq_length") or tokenizer.get("model_max_length")
    is_limit = isinstance(length, int) and length < MAX_TOKENIZER_LENGTH
    return modules, kept, length if modules and is_limit else None


def save_encoder(
    encoder: Encoder,
    folder: Path,
    tokenizer_folder: Path,
    record: dict,
    card: str,
    with_head: bool = True,
    init_folder: Path | None = None,
) -> None:
    """Write the encoder folder atomically, `with_head` including the masked-language head.

    init_folder: the encoder that training started from; `read_init_modules` of it are kept.
    """
    init_modules, st_config, st_length = read_init_modules(init_folder) if init_folder else ([], {}, None)

    def fill(path: Path) -> None:
        model, prefix = encoder.model, ""
        if not with_head:
            model, prefix = model.base_model, f"{model.base_model_prefix}."
        unused = {name.removeprefix(prefix): tensor for name, tensor in encoder.unused_weights.items()}
        model.save_pretrained(path, state_dict={**model.state_dict(), **unused})
        MODALITY.copy_preprocessor(tokenizer_folder, path)
        remove_foreign_keys(path)
        modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        pooling = {f"pooling_mode_{mode}": False for mode in modes} | {POOLING_KEYS[encoder.pooling]: True}
        (path / "1_Pooling").mkdir()
        write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": encoder.width, **pooling})
        kinds = ["Transformer", "Pooling", *["Normalize"] * ("Normalize" in init_modules)]
        modules = [
            {
                "idx": index,
                "name": str(index),
                "path": f"{index}_{kind}" if index else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, kind in enumerate(kinds)
        ]
        if st_config:
            write_json(path / ST_CONFIG_NAME, st_config)
        (path / "modules.json").write_text(json.dumps(modules, indent=2))
        length = st_length or record["max_length"]
        write_json(path / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
        write_json(path / "record.json", record)
        (path / "README.md").write_text(card, encoding="utf-8")

    write_folder(folder, fill)
