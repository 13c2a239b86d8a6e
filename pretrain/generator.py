"""Generators of images: samples, images between them, and the folder out/runs/NAME/generator.

from pretrain.generator import load_generator
generator = load_generator(Path("out/runs/NAME/generator"))
images = generator(torch.randn(8, generator.options["dim"]))    # float32 (8, channels, size, size), from 0 to 1
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import DataError, first_line
from engine.files import read_json, write_json
from pretrain.image_outputs import to_pixels
from pretrain.model.image_decoder import ImageDecoder, ImageTranslator, LatentDecoder
from pretrain.objective import FIXED_SEED, Gallery

BATCH_SIZE = 100
NUM_ROWS, NUM_COLUMNS, NUM_INTERPOLATIONS = 3, 8, 2
NETWORKS = {network.__name__: network for network in (ImageDecoder, ImageTranslator, LatentDecoder)}
README = """# Generator

`model.safetensors` holds the weights, `config.json` the shape of a network of Headstart, {name}. {use}

```python
from pathlib import Path

import torch

from pretrain.generator import load_generator

generator = load_generator(Path("{folder}"))
with torch.no_grad():
    images = generator({inputs})  # float32 (images, channels, size, size), from 0 to 1
```
"""
USES = {
    "ImageDecoder": ("It makes images of standard normal noise.", 'torch.randn(8, generator.options["dim"])'),
    "LatentDecoder": (
        "It makes images of standard normal noise; `generator.describe` returns mean and log-variance of the latent"
        " vector from embeddings of the encoder.",
        'torch.randn(8, generator.options["dim"])',
    ),
    "ImageTranslator": ("It translates images of values from 0 to 1, (images, channels, size, size).", "images"),
}


def save_generator(folder: Path, network: nn.Module) -> None:
    """Write weights, shape and a description to an existing folder."""
    name = type(network).__name__
    weights = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", {"network": name, **network.options})
    use, inputs = USES[name]
    text = README.format(name=name, use=use, inputs=inputs, folder=folder.name)
    (folder / "README.md").write_text(text, encoding="utf-8")


def load_generator(folder: Path) -> nn.Module:
    """Load a generator in evaluation mode. Raises DataError for a damaged folder."""
    options = read_json(folder / "config.json")
    network_class = NETWORKS.get(options.pop("network", None))
    if network_class is None:
        raise DataError(f"{folder / 'config.json'}: network is not one of {', '.join(NETWORKS)}")
    try:
        network = network_class(**options)
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:
        raise DataError(f"{folder}: not a generator ({first_line(error)})") from None
    return network.eval()


@torch.no_grad()
def sample_images(network: nn.Module, count: int) -> Tensor:
    """Return samples, float32 (count, channels, size, size) on the CPU, always of the same noise."""
    noise = torch.randn(count, network.options["dim"], generator=torch.Generator().manual_seed(FIXED_SEED))
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in noise.split(BATCH_SIZE)])


@torch.no_grad()
def draw_samples(network: nn.Module) -> Gallery:
    """Return samples, and images on the way from one noise vector to another."""
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(FIXED_SEED)
    ends = torch.randn(2, NUM_INTERPOLATIONS, 1, network.options["dim"], generator=generator)
    angles = torch.linspace(0, torch.pi / 2, NUM_COLUMNS)[:, None]
    # On the circle through both, where vectors are as long as noise is.
    between = network((ends[0] * angles.cos() + ends[1] * angles.sin()).flatten(0, 1).to(device))
    samples = sample_images(network, NUM_ROWS * NUM_COLUMNS)
    sections = {"Samples of the generator": samples, "Images between two samples": between}
    return [(title, [list(to_pixels(row)) for row in images.split(NUM_COLUMNS)]) for title, images in sections.items()]
