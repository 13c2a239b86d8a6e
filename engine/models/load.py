"""Load networks by transformers: from safetensors only, without code of the folder, and with finite weights."""

from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from engine.errors import DataError, first_line
from engine.files import read_json
from engine.models import LOAD_KWARGS, LOAD_WEIGHTS_KWARGS


def load_pretrained(folder: Path, auto_class: str, purpose: str = "", **options) -> tuple[PreTrainedModel, set[str]]:
    """Load a network in float32; return it and the names of the weights that the folder lacks or has in another shape.

    auto_class: the name of a class of transformers. purpose: of the network, for the message. Raises DataError if
    transformers cannot load it, or if a weight is infinite or not a number.
    """
    options |= {"dtype": torch.float32, "output_loading_info": True}
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(folder, **options, **LOAD_WEIGHTS_KWARGS)
    except Exception as error:
        reason = f"transformers cannot load it{purpose and ' for '}{purpose}"
        raise DataError(f"{folder}: {reason} ({first_line(error)})") from None
    # Of some published folders: without the fast attention and the names of outputs that all code here expects.
    model.config.output_attentions, model.config.return_dict = False, True
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise DataError(f"{folder}: {name} has infinite values or NaN, so the encoder is damaged; fetch it again")
    return model, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder; one without a padding token, as of a decoder, pads with another of its tokens.

    Raises DataError if transformers cannot load it, if it has no token to pad with, or for a limit that is no number.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOAD_KWARGS)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust
            raise
        if not (folder / "tokenizer.json").is_file() and any(folder.glob("*.model")) and not find_spec("sentencepiece"):
            needed = "pip install sentencepiece protobuf, or add its tokenizer.json"
            raise DataError(f"{folder}: its tokenizer is a SentencePiece model; {needed}") from None
        raise DataError(f"{folder}: cannot load a tokenizer ({first_line(error)})") from None
    limit = tokenizer.model_max_length
    if not isinstance(limit, int | float) or limit < 1 or limit != int(limit):
        raise DataError(f"{folder}: model_max_length in tokenizer_config.json is {limit!r}, no number of tokens")
    tokenizer.model_max_length = int(limit)
    tokenizer.padding_side = "right"  # as in training and pooling
    if tokenizer.pad_token is None:
        index = read_json(folder / "config.json").get("pad_token_id") if (folder / "config.json").is_file() else None
        own = tokenizer.convert_ids_to_tokens(index) if isinstance(index, int) and 0 <= index < len(tokenizer) else None
        tokenizer.pad_token = own or tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if tokenizer.pad_token is None:
        raise DataError(f"{folder}: its tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def check_encoder_weights(folder: Path, model: PreTrainedModel, missing: set[str]) -> None:
    """Raise DataError if a folder lacks weights of the encoder itself, such as those of another architecture."""
    prefix = f"{model.base_model_prefix}."
    if lost := sorted(name for name in missing if name.startswith(prefix) and "pooler" not in name):
        raise DataError(f"{folder}: has no weights of this shape for {lost[0]} and {len(lost) - 1} more")


def is_decoder(model_type: str) -> bool:
    """Return whether an architecture is one of decoders, which read a text from left to right."""
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
