"""The image encoder in training, any image model of transformers, and the folder it is saved in.

The folder loads with plain `AutoModel`, `AutoImageProcessor`, `AutoModelForImageClassification` and
`SentenceTransformer`, without this project. An embedding is the mean of the last hidden states.
"""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from data.images.processor import Processor, read_processor, write_processor
from data.images.views import apply_views, identity_params
from data.sampling import take_evenly
from engine.errors import ConfigError, DataError, first_line
from engine.files import write_folder, write_json
from engine.kernels.depthwise import use_float32_depthwise
from engine.kernels.dropout import replace_dropout
from engine.kernels.pointwise import use_subsampled_pointwise
from engine.models import LOAD_KWARGS
from engine.models.batch_norm import freeze_batch_norm
from engine.models.foreign import remove_foreign_keys
from engine.models.load import load_pretrained
from pretrain.config import ImageModel
from pretrain.model.base import BaseEncoder
from pretrain.model.batch_statistics import list_batch_norms, use_batch_statistics

STATISTICS_IMAGES, STATISTICS_BATCH = 2_000, 250
STAGES = 4


class ImageEncoder(BaseEncoder):
    """An image model; its inputs are pixels, uint8 (rows, size, size, channels), and the parameters of their views."""

    def __init__(self, model: PreTrainedModel, processor: Processor, new_parameters: frozenset[str] = frozenset()):
        """processor: size, mean and standard deviation of the network's inputs."""
        super().__init__(model, 0, new_parameters)
        self.processor = processor
        self.can_interpolate = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.width = self.probe(processor.size).shape[-1]

    @torch.no_grad()
    def probe(self, size: int) -> Tensor:
        """Return the states of one empty picture, (1, positions, width). Raises DataError if it cannot be read."""
        was_training = self.training
        self.eval()
        device = next(self.model.parameters()).device
        try:
            return self.states(torch.zeros(1, len(self.processor.mean), size, size, device=device))
        except Exception as error:
            kind = self.model.config.model_type
            raise DataError(f"{kind}: cannot read pictures of {size} x {size} pixels ({first_line(error)})") from None
        finally:
            self.train(was_training)

    def make_views(self, pixels: Tensor, view_params: Tensor, size: int | None = None) -> Tensor:
        """Compute views of pictures as in `data.images.views.apply_views`."""
        return apply_views(pixels, view_params, self.processor.mean, self.processor.std, size)

    def standardize(self, images: Tensor) -> Tensor:
        """Normalize images with values from 0 to 1, (images, channels, size, size)."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in self.processor[1:])
        return (images - mean) / std

    def unstandardize(self, images: Tensor) -> Tensor:
        """Return normalized images with values from 0 to 1, the inverse of `standardize`."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in self.processor[1:])
        return images * std + mean

    def states(self, images: Tensor) -> Tensor:
        """Return the last hidden states, (images, positions, width), of normalized images."""
        # Faster on a CPU. The weights stay contiguous, as the optimizer's state is after a checkpoint is loaded.
        images = images.contiguous(memory_format=torch.channels_last)
        is_other_size = self.can_interpolate and images.shape[-1] != self.model.config.image_size
        options = {"interpolate_pos_encoding": True} if is_other_size else {}
        states = self.model(pixel_values=images, **options).last_hidden_state
        return states.flatten(2).mT if states.ndim == 4 else states

    def embed(self, num_inputs: int, pixels: Tensor, view_params: Tensor, size: int | None = None) -> Tensor:
        """Return the embeddings of all views, float32 (num_inputs, width), those of a row after each other.

        size: of the views, by default that of the pictures.
        """
        return self.embed_images(self.make_views(pixels, view_params, size))

    def embed_images(self, images: Tensor) -> Tensor:
        """Return the embeddings of normalized images, float32 (images, width)."""
        return self.states(images).float().mean(1)

    @property
    def patch_size(self) -> int:
        """Side of the patches of a transformer on patches; 1 for other networks."""
        has_patches = hasattr(getattr(self.model, "embeddings", None), "cls_token")
        return self.model.config.patch_size if has_patches else 1

    def patch_states(self, images: Tensor, kept: Tensor) -> Tensor:
        """Return the last hidden states of some patches, (images, kept, width); others are dropped before the layers.

        images: normalized; kept: int64 (images, kept), indices of patches. Needs a transformer on patches.
        """
        num_patches = (images.shape[-1] // self.patch_size) ** 2

        def select(module: nn.Module, args: tuple, tokens: Tensor) -> Tensor:
            others = torch.arange(tokens.shape[1] - num_patches, device=kept.device).expand(len(kept), -1)
            indices = torch.cat([others, kept + others.shape[1]], 1)
            return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[2]))

        hook = self.model.embeddings.register_forward_hook(select)
        try:
            return self.states(images)[:, -kept.shape[1] :]
        finally:
            hook.remove()

    def hidden_matrices(self) -> set[nn.Parameter]:
        """Return the weights of the linear layers, for Muon."""
        return {module.weight for module in self.model.modules() if isinstance(module, nn.Linear)}


def normalizes_by_batch(encoder: ImageEncoder) -> bool:
    """Return whether an image's states depend on the other images of a batch."""
    return any(not module.track_running_stats for module in list_batch_norms(encoder.model))


def statistics_batches(encoder: ImageEncoder, pixels: np.ndarray, device: torch.device) -> Iterable[Tensor]:
    """Return normalized pictures in batches, each made when it is needed: what statistics are computed from."""
    # Decided now, because the modules have stored statistics while new ones are computed.
    if not normalizes_by_batch(encoder):
        return ()
    return (normalized(encoder, batch, device) for batch in sample_pictures(pixels))


def sample_pictures(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield up to STATISTICS_IMAGES pictures, evenly spaced among `pixels`, in batches."""
    chosen = take_evenly(range(len(pixels)), STATISTICS_IMAGES)
    for start in range(0, len(chosen), STATISTICS_BATCH):
        yield pixels[chosen[start : start + STATISTICS_BATCH]]


def normalized(encoder: ImageEncoder, pixels: np.ndarray, device: torch.device) -> Tensor:
    """Return whole pictures as the network reads them, float32 (images, channels, size, size)."""
    params = torch.from_numpy(identity_params(len(pixels))).to(device)
    return encoder.make_views(torch.from_numpy(np.array(pixels)).to(device), params)


def image_encoder_from_pretrained(folder: Path, size: int, channels: int, dropout: float) -> ImageEncoder:
    """Load the encoder in `folder`; batch normalization keeps its statistics. Raises DataError, and ConfigError."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, missing = load_pretrained(folder, "AutoModel", "images")
    if model.main_input_name != "pixel_values":
        raise DataError(f"{folder}: {model.config.model_type} does not read images; name an encoder that does")
    if lost := sorted(name for name in missing if "pooler" not in name):
        raise DataError(f"{folder}: has no weights of this shape for {lost[0]} and {len(lost) - 1} more")
    if (expected := getattr(model.config, "num_channels", channels)) != channels:
        raise ConfigError(f"pixels.channels: {folder.name or folder} reads {expected} channels, not {channels}")
    freeze_batch_norm(model)
    check_size(folder, model, size, channels)
    return prepare_image_encoder(model, read_processor(folder)._replace(size=size), frozenset(), dropout)


@torch.no_grad()
def check_size(folder: Path, model: PreTrainedModel, size: int, channels: int) -> None:
    """Raise ConfigError if plain transformers could not read images of the size with the saved encoder."""
    try:
        model.eval()(pixel_values=torch.zeros(1, channels, size, size))
    except Exception as error:
        own = getattr(model.config, "image_size", None)
        reason = f"it reads images of {own} pixels" if own not in (None, size) else first_line(error)
        raise ConfigError(f"pixels.size: {folder.name or folder} cannot read {size} pixels: {reason}") from None


def image_encoder_from_config(shape: ImageModel, processor: Processor, dropout: float) -> ImageEncoder:
    """Build an encoder with random weights. Raises ConfigError for an impossible shape."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = shape_options(shape, processor.size) | {"num_channels": len(processor.mean)}
    model = AutoModel.from_config(AutoConfig.for_model(shape.architecture, **options, **LOAD_KWARGS), **LOAD_KWARGS)
    use_batch_statistics(model)
    return prepare_image_encoder(model, processor, frozenset(name for name, _ in model.named_parameters()), dropout)


def shape_options(shape: ImageModel, size: int) -> dict:
    """Return the configuration of a new network in transformers' terms. Raises ConfigError for an impossible shape."""
    width, layers, patch = shape.hidden_size, shape.layers, shape.patch_size
    if shape.architecture in ("vit", "dinov2"):
        if width % shape.attention_heads:
            raise ConfigError(f"model.attention_heads: {shape.attention_heads} does not divide hidden_size={width}")
        if size % patch:
            raise ConfigError(f"model.patch_size: {patch} does not divide pixels.size={size}")
        ratio = {"mlp_ratio": 4} if shape.architecture == "dinov2" else {"intermediate_size": 4 * width}
        common = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": shape.attention_heads}
        return {**common, **ratio, "image_size": size, "patch_size": patch}
    if layers % STAGES or width % 8:
        raise ConfigError(f"model: {shape.architecture} needs layers divisible by {STAGES} and hidden_size by 8")
    if shape.architecture == "efficientnet":
        return {
            "width_coefficient": width / 1280,
            "depth_coefficient": layers / 16,
            "hidden_dim": width,
            "image_size": size,
        }
    sizes, depths = [width // 8, width // 4, width // 2, width], [layers // STAGES] * STAGES
    if shape.architecture == "convnextv2":
        return {"hidden_sizes": sizes, "depths": depths, "patch_size": patch, "image_size": size}
    return {"hidden_sizes": sizes, "depths": depths, "embedding_size": sizes[0], "layer_type": "basic"}


def prepare_image_encoder(
    model: PreTrainedModel, processor: Processor, new_parameters: frozenset[str], dropout: float
) -> ImageEncoder:
    """Set dropout, except in config.json, and try the network. Raises DataError if it does not read these pictures."""
    replace_dropout(model, lambda name: dropout)
    use_float32_depthwise(model)
    use_subsampled_pointwise(model)
    return ImageEncoder(model, processor, new_parameters)


def save_image_encoder(encoder: ImageEncoder, folder: Path, record: dict, card: str) -> None:
    """Write the encoder folder atomically."""

    def fill(path: Path) -> None:
        encoder.model.save_pretrained(path)
        write_processor(path, encoder.processor)
        remove_foreign_keys(path)
        write_json(path / "record.json", record)
        (path / "README.md").write_text(card, encoding="utf-8")

    write_folder(folder, fill)


def measure_channels(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of values from 0 to 1, in some of the pictures."""
    count, (total, squares) = 0, np.zeros((2, pixels.shape[-1]), np.int64)  # sums of integers are exact
    for batch in sample_pictures(pixels):
        count += batch[..., 0].size
        total += batch.sum((0, 1, 2), dtype=np.int64)
        squares += np.square(batch, dtype=np.uint32).sum((0, 1, 2), dtype=np.int64)
    mean = total / max(1, count)
    std = (squares / max(1, count) - mean**2).clip(0) ** 0.5
    return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round((std / 255).clip(0.01), 4).tolist())
