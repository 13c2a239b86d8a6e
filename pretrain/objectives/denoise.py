"""Denoising autoencoder: rebuild an input from the embedding of a noisy copy of it (Vincent et al. 2008).

For text as in TSDAE (Wang et al. 2021): tokens are deleted, and a decoder that sees nothing of the text but its
embedding predicts each token of the whole text after those before it. Images are blurred, get noise on every pixel and
a hole, and are drawn again. The decoder is not saved.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from engine.config.schema import Section
from engine.training.step import Output
from pretrain.deleted_tokens import DeletedTokensDataset
from pretrain.image_denoising import ImageDenoiser
from pretrain.image_noise import NoisyImageDataset
from pretrain.model.base import BaseEncoder
from pretrain.model.encoder import Encoder
from pretrain.model.image_encoder import ImageEncoder
from pretrain.model.text_decoder import TextDecoder
from pretrain.objective import BaseObjective, Gallery, HeldOut
from pretrain.reconstruction import draw_reconstructions, measure_reconstruction, report_ignored_embeddings


class Config(Section):
    """Denoising autoencoder."""

    name: Literal["denoise"] = "denoise"
    """denoise: rebuild an input from the embedding of a noisy copy of it."""
    delete_rate: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """Fraction of a text's tokens that are deleted."""
    decoder_layers: PositiveInt = 1
    """Layers of the decoder of texts."""
    pixel_noise: NonNegativeFloat = 0.1
    """Standard deviation of the noise on the pixels of an image, from 0 to 1."""
    hole_area: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Fraction of an image in its hole, a rectangle."""
    blur: NonNegativeFloat = 1.0
    """Maximum standard deviation, in pixels, by which an image is blurred."""
    decoder_width: PositiveInt = 32
    """Channels of the largest hidden map of the decoder of images; each smaller one has twice as many."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


DATASETS = {"text": DeletedTokensDataset, "images": NoisyImageDataset}


class TextDenoiser(BaseObjective):
    """Summed cross-entropy of all tokens of the texts, and their count."""

    dataset_class = DeletedTokensDataset

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.decoder = TextDecoder.of_encoder(encoder, config.decoder_layers)

    def embed_texts(self, text_numbers: Tensor, **rows: Tensor) -> Tensor:
        """Return the embeddings of the noisy texts, float32 (texts, width)."""
        names = ("input_ids", "position_ids", "document_ids", "cu_seqlens")
        return self.encoder.embed(len(text_numbers), **{name: rows[name] for name in names})

    def rebuild(self, shift: int = 0, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (summed loss, number of tokens); `shift` > 0 gives each text the embedding of another one."""
        vectors, targets = self.embed_texts(**inputs).roll(shift, 0), inputs["targets"]
        whole = {name: inputs[f"target_{name}"] for name in ("input_ids", "position_ids", "document_ids")}
        return self.decoder(vectors, inputs["target_indices"], targets, **whole), targets.new_full((), len(targets))

    def forward(self, **inputs: Tensor) -> Output:
        """Compute the loss of inputs from `DeletedTokensDataset.collate`."""
        return Output(*self.rebuild(**inputs))

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return how well held-out texts are rebuilt; report ignored embeddings after the first evaluation."""
        metrics = measure_reconstruction(self, held_out)
        if self.is_evaluated:
            report_ignored_embeddings(metrics)
        self.is_evaluated = True
        return metrics

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return held-out texts and their reconstructions."""
        return draw_reconstructions(self, held_out)


def Objective(config: Config, encoder: BaseEncoder) -> BaseObjective:  # noqa: N802  called like the class of others
    """Return the objective for the encoder's modality."""
    return (ImageDenoiser if isinstance(encoder, ImageEncoder) else TextDenoiser)(config, encoder)
