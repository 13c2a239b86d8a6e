"""Variational autoencoder of texts: a decoder makes a text from a noisy latent vector of its embedding, token by token.

As Bowman et al. (2016) do, with the encoder's pooled vector in place of the last state of a recurrent network.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from data.sampling import row_generator, take_evenly
from engine.models.load import load_tokenizer
from engine.training.step import Output
from pretrain.dropped_tokens import DroppedTokensDataset, Noise
from pretrain.generator import draw_latent_paths, draw_latents, save_generator
from pretrain.model.encoder import Encoder
from pretrain.model.latents import add_noise, count_active, divergence_from_normal, report_posterior_collapse
from pretrain.model.text_decoder import LatentTextDecoder
from pretrain.objective import FIXED_SEED, BaseObjective, Gallery, HeldOut
from pretrain.reconstruction import MAX_SHOWN_TOKENS, MIN_GAIN, NUM_SHOWN, map_held_out, measure_reconstruction

FREE_BITS = 0.1  # by default
NUM_PATHS, NUM_STEPS = 3, 5
ADVICE = "try a lower objective.beta, a higher objective.token_dropout or objective.free_bits, or more train.steps"


class Settings(Noise, Protocol):
    """The settings of latent vectors and decoder."""

    decoder_layers: int
    beta: float
    free_bits: float | None


class TextAutoencoder(BaseObjective):
    """Summed cross-entropy of all tokens of the texts, plus beta times the divergence; their count."""

    has_generator: ClassVar[bool] = True
    dataset_class: ClassVar[type] = DroppedTokensDataset

    def __init__(self, config: Settings, encoder: Encoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.decoder = LatentTextDecoder.of_encoder(encoder, config.latent_dim, config.decoder_layers)
        self.free_bits = FREE_BITS if config.free_bits is None else config.free_bits

    def describe(self, text_numbers: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent vectors of texts, float32 (texts, latent_dim)."""
        names = ("input_ids", "position_ids", "document_ids", "cu_seqlens")
        embeddings = self.encoder.embed(len(text_numbers), **{name: inputs[name] for name in names})
        return self.decoder.describe(embeddings)

    def decode(self, latents: Tensor, **inputs: Tensor) -> Tensor:
        """Return the summed cross-entropy of the tokens, given latent vectors (texts, latent_dim)."""
        whole = {name: inputs[f"target_{name}"] for name in ("input_ids", "position_ids", "document_ids")}
        return self.decoder(latents, inputs["target_indices"], inputs["targets"], **whole)

    def rebuild(self, shift: int = 0, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (summed cross-entropy, number of tokens); `shift` > 0 gives each text the vector of another one."""
        latents = add_noise(*self.describe(**inputs), inputs["noise"])
        count = inputs["targets"].new_full((), len(inputs["targets"]))
        return self.decode(latents.roll(shift, 0), **inputs), count

    def forward(self, **inputs: Tensor) -> Output:
        """Compute the loss of inputs from `DroppedTokensDataset.collate`."""
        mean, log_variance = self.describe(**inputs)
        loss = self.decode(add_noise(mean, log_variance, inputs["noise"]), **inputs)
        divergence = divergence_from_normal(mean, log_variance)
        count, num_texts = (loss.new_full((), len(each)) for each in (inputs["targets"], mean))
        metrics = {"token_loss": torch.stack([loss.detach(), count])}
        metrics["divergence"] = torch.stack([divergence.detach().sum(), num_texts])
        return Output(loss + self.config.beta * divergence.clamp(min=self.free_bits).sum(), count, metrics)

    @torch.no_grad()
    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return how well held-out texts are rebuilt, divergence in nats, and the number of latent dimensions in use.

        A posterior collapse is reported after the first evaluation.
        """
        metrics = measure_reconstruction(self, held_out)
        described = map_held_out(self, held_out, self.describe)
        if not described:
            return metrics
        means, log_variances = (torch.cat(parts) for parts in zip(*described, strict=True))
        active, gain = count_active(means), metrics["embedding_gain"]
        if self.is_evaluated:
            # Dimensions that depend on the text are of no use if the decoder ignores them.
            report_posterior_collapse(active if gain >= MIN_GAIN else 0, means, ADVICE)
        self.is_evaluated = True
        divergence = divergence_from_normal(means, log_variances).sum(1).mean()
        return metrics | {"divergence": float(divergence), "active_dims": active}

    @torch.no_grad()
    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return samples, texts between two of them, and held-out texts with their reconstruction."""
        tokenizer, dataset = load_tokenizer(held_out.tokenizer_folder), self.dataset_class(self.config, held_out.data)
        dim, device = self.config.latent_dim, held_out.accelerator.device
        self.find_ends(held_out)

        def write(latents: Tensor) -> list[str]:
            rows = self.decoder.generate(latents.to(device), MAX_SHOWN_TOKENS)
            return [tokenizer.decode(row) for row in rows]

        sections = [("Samples of the generator", [[text] for text in write(draw_latents(dim, NUM_SHOWN))])]
        paths = [write(path) for path in draw_latent_paths(dim, NUM_PATHS, NUM_STEPS)]
        sections.append(("Texts between two samples", paths))
        shown = take_evenly(range(len(dataset)), NUM_SHOWN)
        if shown:
            generators = [row_generator(FIXED_SEED, 0, row) for row in shown]
            batch = {name: tensor.to(device) for name, tensor in dataset.collate(shown, generators).inputs.items()}
            rebuilt = write(self.describe(**batch)[0])
            texts = [tokenizer.decode(text[:MAX_SHOWN_TOKENS]) for text, _ in dataset.read_texts(shown, [])]
            rows = [list(row) for row in zip(texts, rebuilt, strict=True)]
            sections.append(("Held-out texts, and their reconstruction", rows))
        return sections

    def find_ends(self, held_out: HeldOut) -> None:
        """Store the ids of the tokens before and after a text with the decoder."""
        self.decoder.options["ends"] = [held_out.data.special_ids[name] for name in ("cls", "sep")]

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write the decoder and the tokenizer."""
        self.find_ends(held_out)
        load_tokenizer(held_out.tokenizer_folder).save_pretrained(folder)
        save_generator(folder, self.decoder)
