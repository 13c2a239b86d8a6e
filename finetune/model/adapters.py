"""Adapters by peft: small trainable weights on a frozen encoder, whatever `layers` sets.

The head (and a pooler) is new, so it is trained in full and saved with the adapter. Module names stay the same except
for peft's own parts, so an adapter's depth and learning rate follow from its layer. Output: `model/`, a plain model
with the adapters merged, and `adapter/` on `base/`, for peft:

    base = AutoModelForSequenceClassification.from_pretrained("base")
    model = PeftModel.from_pretrained(base, "adapter")
"""

import copy
import re
import warnings
from pathlib import Path

from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine.errors import ConfigError
from engine.files import write_folder
from engine.models.foreign import remove_foreign_keys
from finetune.config import Adapter
from finetune.model.layerwise import split_layers

# IA3 scales the outputs of keys, values and the feed-forward's inner layer, the last as the next layer's input.
IA3_OUTPUT_PATTERN = re.compile(r"\.(?:key|value|Wqkv)$")
IA3_FEEDFORWARD_PATTERN = re.compile(r"\.\d+\.output\.dense$|\.mlp\.Wo$")


def find_linear_layers(model: PreTrainedModel, num_layers: int) -> list[str]:
    """Return the names of the encoder's linear layers, without those of an added mean pooling layer."""
    layers = split_layers(model)[:num_layers]
    inside = {module for parts in layers for part in parts for module in part.modules()}
    return [
        name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and module in inside
    ]


def find_modules_to_save(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules outside the encoder: the head, and the pooler if there is one."""
    base = model.base_model
    parts = [name for name, module in model.named_children() if module is not base and list(module.parameters())]
    return parts + ["pooler"] * (getattr(base, "pooler", None) is not None)


def find_targets(config: Adapter, layers: list[str], feedforward: list[str]) -> list[str]:
    """Return the names of the linear layers to adapt. Raise ConfigError if one of the endings matches none."""
    if not layers:
        raise ConfigError(f"adapter.name: the encoder has no linear layers that {config.name} could adapt")
    matches = {end: [name for name in layers if f".{name}".endswith(f".{end}")] for end in config.target_modules or ()}
    if matches:
        targets = [name for name in layers if any(name in names for names in matches.values())]
    elif config.name == "lora":
        targets = layers
    else:
        targets = [name for name in layers if IA3_OUTPUT_PATTERN.search(name)] + feedforward
    if targets and all(matches.values()):
        return targets
    missing = ", ".join(end for end, names in matches.items() if not names) or "what ia3 scales"
    endings = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
    raise ConfigError(f"adapter.target_modules: no linear layer of the encoder ends in {missing}; there are {endings}")


def add_adapters(model: PreTrainedModel, config: Adapter, num_layers: int) -> PeftModel:
    """Add adapters to `model` in place, and freeze all but them and the head. Raise ConfigError if no layer matches."""
    layers = find_linear_layers(model, num_layers)
    feedforward = [name for name in layers if IA3_FEEDFORWARD_PATTERN.search(name)]
    targets = find_targets(config, layers, feedforward)
    task_types = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    common = {
        "task_type": next((kind for end, kind in task_types.items() if type(model).__name__.endswith(end)), None),
        "target_modules": targets,
        "modules_to_save": find_modules_to_save(model),
    }
    if config.name == "ia3":
        settings = IA3Config(**common, feedforward_modules=[name for name in feedforward if name in targets])
    else:
        lora = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
        settings = LoraConfig(**common, **lora, use_dora=config.dora, use_rslora=config.rslora)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name of transformers
        return get_peft_model(model, settings)


def unwrap_modules_to_save(peft_model: PeftModel) -> PeftModel:
    """Replace peft's wrapper of the head by the trained head, which peft cannot do for IA3."""
    for name, wrapper in list(peft_model.named_modules()):
        if isinstance(wrapper, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(peft_model.get_submodule(parent), child, wrapper.modules_to_save[wrapper.active_adapters[0]])
    return peft_model


def save_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Write `folder/adapter` and `folder/base`, each atomically."""
    base, base_model = folder / "base", unwrap_modules_to_save(copy.deepcopy(peft_model)).unload()

    def fill_base(path: Path) -> None:
        base_model.save_pretrained(path)
        remove_foreign_keys(path)

    write_folder(base, fill_base)
    for settings in peft_model.peft_config.values():
        settings.base_model_name_or_path = str(base)

    def fill(path: Path) -> None:
        peft_model.save_pretrained(path)
        (path / "README.md").unlink(missing_ok=True)  # peft's empty template

    write_folder(folder / "adapter", fill)


def merge_adapters(peft_model: PeftModel) -> None:
    """Merge the adapters into the weights of the adapted model, in place."""
    unwrap_modules_to_save(peft_model).merge_and_unload()
