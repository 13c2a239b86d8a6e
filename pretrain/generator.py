"""Generators of images or texts: samples, what is between them, and the folder out/runs/NAME/generator.

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
from pretrain.model.text_decoder import LatentTextDecoder
from pretrain.objective import FIXED_SEED, Gallery

BATCH_SIZE = 100
NUM_ROWS, NUM_COLUMNS, NUM_INTERPOLATIONS = 3, 8, 2
NETWORKS = {network.__name__: network for network in (ImageDecoder, ImageTranslator, LatentDecoder, LatentTextDecoder)}
README = """# Generator

`model.safetensors` holds the weights, `config.json` the shape of a network of Headstart, {name}. {use}

```python
from pathlib import Path

import torch
{imports}
from pretrain.generator import load_generator

generator = load_generator(Path("{folder}"))
with torch.no_grad():
    {code}
```
"""
IMAGES = "  # float32 (images, channels, size, size), from 0 to 1"
NOISE = 'torch.randn(8, generator.options["dim"])'
DESCRIBES = "`generator.describe` returns mean and log-variance of the latent vector from embeddings of the encoder."
USES = {
    "ImageDecoder": ("It makes images of standard normal noise.", f"images = generator({NOISE}){IMAGES}"),
    "LatentDecoder": (f"It makes images of standard normal noise; {DESCRIBES}", f"images = generator({NOISE}){IMAGES}"),
    "ImageTranslator": (
        "It translates images of values from 0 to 1, (images, channels, size, size).",
        f"images = generator(images){IMAGES}",
    ),
    "LatentTextDecoder": (
        f"It makes texts of standard normal noise; {DESCRIBES}",
        f'texts = AutoTokenizer.from_pretrained("{{folder}}").batch_decode(generator.generate({NOISE}))',
    ),
}
IMPORTS = {"LatentTextDecoder": "from transformers import AutoTokenizer\n"}


def save_generator(folder: Path, network: nn.Module, place: str = "generator") -> None:
    """Write weights, shape and a description to an existing folder. place: where it will be in the run's folder."""
    name = type(network).__name__
    weights = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", {"network": name, **network.options})
    use, code = USES[name]
    code, imports = code.format(folder=place), IMPORTS.get(name, "")
    text = README.format(name=name, use=use, imports=imports, code=code, folder=place)
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


def draw_latents(dim: int, count: int) -> Tensor:
    """Return standard normal noise, float32 (count, dim), always the same."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(FIXED_SEED))


def draw_latent_paths(dim: int, num_paths: int, num_steps: int) -> Tensor:
    """Return vectors on the way from one noise vector to another, float32 (paths, steps, dim), always the same."""
    ends = torch.randn(2, num_paths, 1, dim, generator=torch.Generator().manual_seed(FIXED_SEED))
    angles = torch.linspace(0, torch.pi / 2, num_steps)[:, None]
    # On the circle through both, where vectors are as long as noise is.
    return ends[0] * angles.cos() + ends[1] * angles.sin()


@torch.no_grad()
def sample_images(network: nn.Module, count: int) -> Tensor:
    """Return samples, float32 (count, channels, size, size) on the CPU, always of the same noise."""
    noise, device = draw_latents(network.options["dim"], count), next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in noise.split(BATCH_SIZE)])


@torch.no_grad()
def draw_samples(network: nn.Module) -> Gallery:
    """Return samples, and images on the way from one noise vector to another."""
    paths = draw_latent_paths(network.options["dim"], NUM_INTERPOLATIONS, NUM_COLUMNS)
    between = network(paths.flatten(0, 1).to(next(network.parameters()).device))
    samples = sample_images(network, NUM_ROWS * NUM_COLUMNS)
    sections = {"Samples of the generator": samples, "Images between two samples": between}
    return [(title, [list(to_pixels(row)) for row in images.split(NUM_COLUMNS)]) for title, images in sections.items()]
