"""Networks that read from left to right: decoders, and encoders that transformers runs with a causal mask.

The folder that is saved has the same mask, because its config.json has `is_decoder`, or is that of a decoder.
"""

from pathlib import Path

from torch import Tensor
from transformers import (
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.llama import modeling_llama
from transformers.models.modernbert_decoder import modeling_modernbert_decoder

from engine.errors import ConfigError, DataError
from engine.files import read_json
from engine.kernels import attention
from engine.models.load import is_decoder, load_pretrained
from pretrain.config import ModelConfig
from pretrain.model.rms_norm import use_fast_rms_norm

SHARED_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_types"),
    *("hidden_activation", "max_position_embeddings", "initializer_range", "initializer_cutoff_factor", "norm_eps"),
    *("norm_bias", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "attention_bias"),
    *("mlp_bias", "decoder_bias", "classifier_bias", "classifier_activation", "tie_word_embeddings", "rope_parameters"),
)
"""Keys of a configuration that mean the same for ModernBERT and its decoder."""


def new_config(
    model_config: ModelConfig, special_ids: dict[str, int], vocab_size: int, is_causal: bool
) -> PreTrainedConfig:
    """Return the configuration of a new network. Raises ConfigError for a decoder that is not to be trained as one."""
    common = {
        "vocab_size": vocab_size,
        "hidden_size": model_config.hidden_size,
        "num_hidden_layers": model_config.layers,
        "num_attention_heads": model_config.attention_heads,
        "intermediate_size": model_config.intermediate_size,
        "max_position_embeddings": model_config.positions,
        "pad_token_id": special_ids["pad"],
    }
    ends = {"bos_token_id": special_ids["cls"], "eos_token_id": special_ids["sep"]}
    if model_config.architecture == "bert":
        return BertConfig(**common, **({"is_decoder": True, **ends} if is_causal else {}))
    if model_config.architecture == "llama":
        if not is_causal:
            raise ConfigError("model.architecture: llama reads from left to right, which needs objective.name=causal")
        return LlamaConfig(**common, **ends, tie_word_embeddings=True)
    common |= ends | {"cls_token_id": special_ids["cls"], "sep_token_id": special_ids["sep"]}
    common["local_attention"] = model_config.local_attention
    return ModernBertDecoderConfig(**common) if is_causal else ModernBertConfig(**common, classifier_pooling="mean")


def causal_lm_from_pretrained(folder: Path) -> tuple[PreTrainedModel, set[str]]:
    """Load the network in `folder` as one that predicts the next token, with the names of the weights it lacks.

    Raises DataError for an architecture that transformers does not run from left to right.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "modernbert":
        return convert_modernbert(*load_pretrained(folder, "AutoModelForMaskedLM"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.get("is_encoder_decoder"):
        raise DataError(f"{folder}: transformers does not run {kind} from left to right, which causal needs")
    options = {} if is_decoder(kind) else {"is_decoder": True}
    return load_pretrained(folder, "AutoModelForCausalLM", "predicting the next token", **options)


def convert_modernbert(model: PreTrainedModel, missing: set[str]) -> tuple[PreTrainedModel, set[str]]:
    """Return ModernBERT's decoder with the weights of a ModernBERT, and the names of those that were missing."""
    known = {key: value for key, value in model.config.to_dict().items() if key in SHARED_KEYS}
    # A decoder's window has the token itself.
    decoder = ModernBertDecoderForCausalLM(
        ModernBertDecoderConfig(**known, local_attention=2 * (model.config.sliding_window + 1))
    )

    def rename(name: str) -> str:
        return f"lm_{name}" if name.startswith("head.") else name

    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if ".Wqkv." in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                weights[name.replace("Wqkv", f"{part}_proj")] = rows
        else:
            weights[rename(name)] = weight
    decoder.load_state_dict(weights)
    return decoder, set(map(rename, missing))


def use_fast_operations(model: PreTrainedModel) -> None:
    """Replace the rotary embedding of decoders that have ModernBERT's (`engine.kernels.attention`), and Llama's norm.

    Replaces module functions, so it affects all models of the architecture in this process; exact up to rounding.
    """
    for module in (modeling_llama, modeling_modernbert_decoder):
        if type(model).__module__ == module.__name__:
            module.apply_rotary_pos_emb = attention.fast_apply_rotary_pos_emb
    if type(model).__module__ == modeling_llama.__name__:
        use_fast_rms_norm()
