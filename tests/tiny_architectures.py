"""Tiny encoder folders, with random weights, of the architectures that transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SPECIAL_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
VOCABULARY = [*SPECIAL_TOKENS.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VOCAB_SIZE = 96  # more embeddings than tokens, as published models have
VALUES = {
    "hidden_size d_model n_embd emb_dim dim embedding_size word_embed_proj_dim": 32,
    "intermediate_size d_ff d_inner ffn_dim n_inner hidden_dim encoder_ffn_dim decoder_ffn_dim": 48,
    "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_decoder_layers": 2,
    "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads": 2,
    "num_key_value_heads num_experts num_local_experts num_experts_per_tok": 2,
    "head_dim d_kv attention_head_size": 16,
    "max_position_embeddings n_positions": 66,
    "bos_token_id cls_token_id": 0,
    "pad_token_id pad_index": 1,
    "eos_token_id sep_token_id decoder_start_token_id": 2,
    "mask_token_id mask_index": 4,
}
"""Values of the configuration keys that an architecture has."""
ENCODERS = {
    **dict.fromkeys("albert bert big_bird camembert convbert data2vec-text deberta distilbert electra".split(), {}),
    **dict.fromkeys("ernie esmc eurobert fnet gte ibert jina_embeddings_v3 megatron-bert modernbert".split(), {}),
    **dict.fromkeys("mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roc_bert".split(), {}),
    **dict.fromkeys("roformer squeezebert ultrabert xlm-roberta xlm-roberta-xl yoso xlm flaubert xlnet".split(), {}),
    "canine": {"num_hash_buckets": 64},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "esm": {"position_embedding_type": "rotary"},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "layoutlm": {"max_2d_position_embeddings": 8},
    "longformer": {"attention_window": [8, 8]},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 1},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local"], "num_hashes": 1},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
DECODERS = {
    **dict.fromkeys("biogpt bloom falcon gemma gemma2 gemma3_text gpt2 gpt_neox llama mistral mixtral mpt".split(), {}),
    **dict.fromkeys("olmo2 openai-gpt opt phi phi3 qwen2 qwen3 stablelm starcoder2".split(), {}),
    "gpt_neo": {"attention_types": [[["global"], 2]]},
}
ENCODER_DECODERS = {name: {"decoder_start_token_id": 1} for name in ("bart", "mbart", "mt5", "t5", "umt5")}
ARCHITECTURES = {**ENCODERS, **DECODERS, **ENCODER_DECODERS}


def tiny_config(model_type: str, **overrides):
    """Return a configuration with the sizes above where the architecture has such a key."""
    config_class = CONFIG_MAPPING[model_type]
    known = config_class().to_dict()
    values = {key: value for keys, value in VALUES.items() for key in keys.split() if key in known}
    if model_type in DECODERS:
        values["pad_token_id"] = None
    return config_class(**{**values, "vocab_size": VOCAB_SIZE, **ARCHITECTURES[model_type], **overrides})


def tiny_model(model_type: str, auto_class: str, **overrides) -> PreTrainedModel:
    """Return a network with the same random weights at every call, larger ones than at the start of training."""
    torch.manual_seed(0)
    model = getattr(transformers, auto_class).from_config(tiny_config(model_type, **overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


def tiny_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of letters, with the special tokens that the kind of architecture has."""
    vocab = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.decoder = normalizers.Lowercase(), decoders.WordPiece()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"eos": "</s>", "unk": "<unk>"}
    if model_type in ENCODER_DECODERS:
        names["pad"] = "<pad>"
    if model_type in ENCODERS:
        names |= {**SPECIAL_TOKENS, "bos": "<s>"}
    if model_type not in DECODERS:
        first = "<s> " if "cls" in names else ""
        templates = {"single": f"{first}$A </s>", "pair": f"{first}$A </s> $B </s>"}
        special = [("<s>", 0), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(**templates, special_tokens=special)
    inputs = ["input_ids", "attention_mask"]
    options = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **options)


def write_encoder(model_type: str, folder: Path, auto_class: str = "AutoModel", **overrides) -> Path:
    """Write a folder as published ones are, and return it."""
    tiny_model(model_type, auto_class, **overrides).save_pretrained(folder)
    tiny_tokenizer(model_type).save_pretrained(folder)
    return folder
