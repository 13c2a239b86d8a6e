"""Load networks by transformers: from safetensors only, without code of the folder, and with finite weights."""

from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from engine.errors import DataError, first_line
from engine.models import LOAD_WEIGHTS_KWARGS


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
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise DataError(f"{folder}: {name} has infinite values or NaN, so the encoder is damaged; fetch it again")
    return model, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
