"""Variational autoencoder (Kingma and Welling 2014), with beta (Higgins et al. 2017) and free bits.

A latent vector is described by the embedding of an image or a text, and a decoder makes the input from it; that of
texts predicts each token after those before it (Bowman et al. 2016). The decoder is saved in generator/: it makes
images or texts of noise, and with the encoder scores how unusual an image is.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from engine.config.schema import Section
from pretrain.dropped_tokens import DroppedTokensDataset
from pretrain.image_variational import ImageAutoencoder, NoiseDataset
from pretrain.model.base import BaseEncoder
from pretrain.model.image_encoder import ImageEncoder
from pretrain.objective import BaseObjective
from pretrain.text_variational import TextAutoencoder


class Config(Section):
    """Variational autoencoder."""

    name: Literal["vae"] = "vae"
    """vae: make an input again from a noisy latent vector of its embedding."""
    latent_dim: PositiveInt = 64
    """Width of the latent vectors."""
    decoder_width: PositiveInt = 32
    """Channels of the largest hidden map of the decoder of images; each smaller one has twice as many."""
    pixel_std: PositiveFloat = 0.1
    """Standard deviation of the noise of a pixel, from 0 to 1; a smaller one gives finer drawings and worse samples."""
    decoder_layers: PositiveInt = 1
    """Layers of the decoder of texts."""
    token_dropout: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the tokens before it that the decoder of texts does not see, so that it needs the latent vector."""
    beta: NonNegativeFloat = 1.0
    """Weight of the divergence of a latent vector's distribution from the standard normal one."""
    free_bits: NonNegativeFloat | None = None
    """Divergence of a latent dimension, in nats, without a cost (Kingma et al. 2016), against posterior collapse; none:
    0 for images, 0.1 for texts."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


DATASETS = {"text": DroppedTokensDataset, "images": NoiseDataset}


def Objective(config: Config, encoder: BaseEncoder) -> BaseObjective:  # noqa: N802  called like the class of others
    """Return the objective for the encoder's modality."""
    return (ImageAutoencoder if isinstance(encoder, ImageEncoder) else TextAutoencoder)(config, encoder)
