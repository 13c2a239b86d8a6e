"""Adapters by peft: small weights beside the encoder's, which stay as they are whatever `layers` says.

The head (and a pooler) is new, and so learns whole and is saved with the adapter. The model keeps its names but for
peft's own parts, so depth and rates of the adapters follow from the layer they stand in. Left behind are `model/`, plain
with the adapters merged, and `adapter/` on `base/`, for peft:

    base = AutoModelForSequenceClassification.from_pretrained("base")
    model = PeftModel.from_pretrained(base, "adapter")
"""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from engine.errors import ConfigError
from engine.files import write_folder
from finetune.config import Adapter
from finetune.model.layerwise import LAYER_PATTERN, layer_depth

# IA3 scales what keys, values and the feed-forward's inner layer give, the last by what the layer after it reads.
IA3_OUTPUT_PATTERN = re.compile(r"\.(?:key|value|Wqkv)$")
IA3_FEEDFORWARD_PATTERN = re.compile(r"\.\d+\.output\.dense$|\.mlp\.Wo$")


def find_linear_layers(model: PreTrainedModel, num_layers: int) -> list[str]:
    """The names of the linear layers of the encoder; those of a mean pooling written above it are not among them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and LAYER_PATTERN.search(f".{name}.")
        and 1 <= layer_depth(f".{name}.", num_layers) <= num_layers
    ]


def find_modules_to_save(model: PreTrainedModel) -> list[str]:
    """The names, as peft wants them, of what is not the encoder: the head, and the pooler where there is one."""
    base = model.base_model
    parts = [name for name, module in model.named_children() if module is not base and list(module.parameters())]
    return parts + ["pooler"] * (getattr(base, "pooler", None) is not None)


def add_adapters(model: PreTrainedModel, config: Adapter, num_layers: int) -> PeftModel:
    """Put adapters into `model`, in place; only they and the head have a gradient afterwards. `num_layers`: of the encoder.

    Raises ConfigError when no layer has one of the names given, or there is nothing to adapt.
    """
    every = find_linear_layers(model, num_layers)
    named = {end: [name for name in every if f".{name}".endswith(f".{end}")] for end in config.target_modules or ()}
    fed = [name for name in every if IA3_FEEDFORWARD_PATTERN.search(name)]
    usual = every if config.name == "lora" else [name for name in every if IA3_OUTPUT_PATTERN.search(name)] + fed
    chosen = [name for name in every if any(name in found for found in named.values())] if named else usual
    if not chosen or not all(named.values()):
        endings = sorted({name.rpartition(".")[2] for name in every})
        missed = [end for end, found in named.items() if not found]
        raise ConfigError(
            f"adapter.target_modules: no linear layer of the encoder ends in {', '.join(missed) or 'what ia3 scales'};"
            f" there are {', '.join(endings)}"
        )
    kind = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    task = next((told for ending, told in kind.items() if type(model).__name__.endswith(ending)), None)
    shared = {"task_type": task, "target_modules": chosen, "modules_to_save": find_modules_to_save(model)}
    if config.name == "ia3":
        settings = IA3Config(**shared, feedforward_modules=[name for name in fed if name in chosen])
    else:
        settings = LoraConfig(
            **shared,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_dora=config.dora,
            use_rslora=config.rslora,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going out of use
        return get_peft_model(model, settings)


def unwrap_modules_to_save(peft_model: PeftModel) -> PeftModel:
    """The same with the head as it was trained in the place of peft's wrapper, which IA3 cannot take off by itself."""
    for name, wrapper in list(peft_model.named_modules()):
        if isinstance(wrapper, ModulesToSaveWrapper):
            parent, _, own = name.rpartition(".")
            setattr(peft_model.get_submodule(parent), own, wrapper.modules_to_save[wrapper.active_adapters[0]])
    return peft_model


def save_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Write `folder/adapter` and `folder/base`, whole or not at all."""
    base = folder / "base"
    write_folder(base, unwrap_modules_to_save(copy.deepcopy(peft_model)).unload().save_pretrained)
    for settings in peft_model.peft_config.values():
        settings.base_model_name_or_path = str(base)

    def fill(path: Path) -> None:
        peft_model.save_pretrained(path)
        (path / "README.md").unlink(missing_ok=True)  # peft's form, with nothing filled in

    write_folder(folder / "adapter", fill)


def merge_adapters(peft_model: PeftModel) -> None:
    """Make the model that was adapted plain again, in place, with what the adapters learned in its weights."""
    unwrap_modules_to_save(peft_model).merge_and_unload()
