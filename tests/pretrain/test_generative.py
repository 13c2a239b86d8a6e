"""Objectives that make images: their losses and gradients, resuming, metrics of samples, and the saved generator."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from tiny_images import InMemoryPixels, make_objective, tiny_image_encoder
from tiny_models import make_batch
from tiny_training import train_objective
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.images.views import Views
from engine.errors import ConfigError, DataError
from engine.training.step import MicroBatch
from pretrain.frechet import SampleQuality, frechet_distance
from pretrain.generator import load_generator, sample_images, save_generator
from pretrain.image_noise import NoisyImageDataset, add_noise
from pretrain.model.image_decoder import ImageDecoder, ImageTranslator, LatentDecoder
from pretrain.objectives import cyclegan, denoise, gan, vae

CASES = [(denoise, {}), (vae, {}), (gan, {}), (gan, {"loss": "wgan-gp"}), (cyclegan, {})]
GENERATIVE = pytest.mark.parametrize("file, options", CASES, ids=["denoise", "vae", "gan", "wgan-gp", "cyclegan"])


def plant_nan(step: int, batch: MicroBatch) -> None:
    """Make all pixels of an image of the first step NaN."""
    if step == 0:
        batch.inputs["view_params"][0, 0, -1] = torch.nan


@GENERATIVE
def test_a_run_resumes_bit_for_bit_and_leaves_a_step_with_nan_out(tmp_path, cpu_accelerator, file, options):
    def make(architecture: str = "convnextv2"):
        return cpu_accelerator, *make_objective(file, architecture, **options)

    whole, _ = train_objective(tmp_path / "whole", *make(), 5)
    with pytest.raises(InterruptedError):
        train_objective(tmp_path / "cut", *make(), 5, fail_at=3)
    resumed, _ = train_objective(tmp_path / "cut", *make(), 5)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    one = make("convnextv2" if options else "resnet")
    before = {name: tensor.clone() for name, tensor in one[1].state_dict().items()}
    after, run = train_objective(tmp_path / "nan", *one, 1, plant=plant_nan)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run.read_log()[0]["skipped_steps"] == 1


@GENERATIVE
def test_every_network_learns(file, options):
    objective, dataset = make_objective(file, "resnet" if not options else "convnextv2", **options)
    inputs, optimizer = make_batch(dataset, list(range(8))).inputs, torch.optim.AdamW(objective.parameters(), 2e-3)
    history = []
    for _ in range(8):
        output = objective.train()(**inputs)
        assert output.loss.isfinite() and output.count == 8
        optimizer.zero_grad()
        output.loss.backward()
        assert all(weight.grad is not None for name, weight in objective.named_parameters() if "encoder" not in name)
        optimizer.step()
        history.append({name: pair[0].item() for name, pair in output.metrics.items()} | {"loss": output.loss.item()})
    falling = {denoise: "loss", vae: "squared_error", gan: "discriminator_loss", cyclegan: "cycle_loss"}[file]
    assert history[-1][falling] < history[0][falling], history


@pytest.mark.parametrize("loss, architecture", [("dcgan", "convnextv2"), ("dcgan", "resnet"), ("wgan-gp", "vit")])
def test_gradients_of_a_gan_are_those_of_two_backward_passes(loss, architecture):
    """Of a copy in which discriminator and generator have a backward pass each, without the other's gradient."""
    objective, dataset = make_objective(gan, architecture, loss=loss)
    inputs, slow = make_batch(dataset, list(range(6))).inputs, copy.deepcopy(objective)
    objective(**inputs).loss.backward()
    encoder, judge = slow.encoder, slow.discriminator
    real = encoder.make_views(inputs["pixels"], inputs["view_params"])
    generated = encoder.standardize(slow.generator(inputs["noise"]))
    is_joint = architecture == "resnet"

    def scores(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return judge(torch.cat([real, images])).chunk(2) if is_joint else (judge(real), judge(images))

    real_scores, fake_scores = scores(generated.detach())
    if loss == "dcgan":
        ones = torch.ones(6)
        judged = F.binary_cross_entropy_with_logits(torch.cat([real_scores, fake_scores]), torch.cat([ones, 0 * ones]))
        (12 * judged).backward()
    else:
        mix = inputs["mix"].view(-1, 1, 1, 1)
        mixed = (mix * real + (1 - mix) * generated).detach().requires_grad_()
        penalties = []
        for row in range(6):
            with sdpa_kernel(SDPBackend.MATH):
                gradient = torch.autograd.grad(judge(mixed[row : row + 1]).sum(), mixed, create_graph=True)[0]
            penalties.append((gradient[row].square().sum().sqrt() - 1) ** 2)
        (fake_scores.sum() - real_scores.sum() + 10 * sum(penalties)).backward()
    expected = {name: weight.grad.clone() for name, weight in judge.named_parameters() if weight.grad is not None}
    slow.zero_grad()
    fooled = scores(generated)[1]
    (F.softplus(-fooled) if loss == "dcgan" else -fooled).sum().backward()
    expected = {f"discriminator.{name}": gradient for name, gradient in expected.items()}
    expected |= {f"generator.{name}": weight.grad for name, weight in slow.generator.named_parameters()}
    found = dict(objective.named_parameters(remove_duplicate=False))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name].grad, gradient, rtol=1e-3, atol=1e-6 * largest), name


def test_wgan_gp_of_a_network_with_batch_normalization_is_one_line():
    with pytest.raises(ConfigError, match=r"^objective.loss: wgan-gp needs a network without batch normalization"):
        gan.Objective(gan.Config(loss="wgan-gp", evaluation_images=0), tiny_image_encoder("resnet"))


def test_the_loss_of_vae_is_the_negative_evidence_bound():
    objective, dataset = make_objective(vae, "convnextv2", beta=0.5, free_bits=0.02, pixel_std=0.3)
    inputs = make_batch(dataset, [0, 1, 2]).inputs
    output, encoder = objective(**inputs), objective.encoder
    images = encoder.make_views(inputs["pixels"], inputs["view_params"])
    mean, log_variance = objective.decoder.describe(encoder.embed_images(images))
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    drawn = objective.decoder(mean + posterior.scale * inputs["noise"])
    flipped = inputs["view_params"][:, 0, 0] < 0
    pixels = inputs["pixels"].permute(0, 3, 1, 2) / 255
    pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    error = -torch.distributions.Normal(drawn, 0.3).log_prob(pixels)
    constant = -torch.distributions.Normal(0.0, 0.3).log_prob(torch.tensor(0.0))
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert (divergence < 0.02).any() and (divergence > 0.02).any()
    expected = (error - constant).sum() + 0.5 * divergence.clamp(min=0.02).sum()
    assert torch.allclose(output.loss, expected, rtol=1e-4) and output.count == 3
    assert torch.allclose(output.metrics["divergence"][0], divergence.sum(), rtol=1e-4)


@pytest.mark.parametrize("counts", [(40, 30), (9, 30), (7, 8)])
def test_the_frechet_distance_is_that_of_the_formula(counts):
    rng = np.random.default_rng(0)
    sets = [shift + rng.normal(size=(count, 12)) @ rng.normal(size=(12, 12)) for shift, count in enumerate(counts)]
    covariances = [np.cov(features.T) for features in sets]
    cross = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    gap = sets[0].mean(0) - sets[1].mean(0)
    expected = gap @ gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    found = frechet_distance(*map(torch.from_numpy, sets))
    assert found == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(torch.from_numpy(sets[0]), torch.from_numpy(sets[0])) == pytest.approx(0, abs=1e-6)


def measure_quality(*samples: torch.Tensor) -> list[dict[str, float]]:
    """Return the metrics of samples; the features are mean values of parts of an image."""
    quality = SampleQuality.__new__(SampleQuality)
    quality.max_images, quality.reference, quality.lowest = 100, None, float("inf")
    quality.extract = lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1)
    return [quality.measure(each, InMemoryPixels(40).pixels) for each in samples]


def test_a_collapse_and_a_divergence_of_samples_are_a_line_each(capsys):
    images = torch.from_numpy(InMemoryPixels(40).pixels).permute(0, 3, 1, 2) / 255
    (good,), (worse,) = measure_quality(images), measure_quality(images + 0.01)
    assert good["frechet_distance"] < 1e-6 < worse["frechet_distance"]
    assert capsys.readouterr().err == ""
    line = torch.linspace(0, 1, 40).view(-1, 1, 1, 1).expand(40, 3, 32, 32)
    noise = 1e-3 * torch.rand(40, 3, 32, 32)
    assert measure_quality(images + noise, line)[1]["sample_rank"] < 1.01
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "the samples collapse" in lines[0] and "the samples diverge" in lines[1]


def held_out(accelerator, count: int = 9) -> SimpleNamespace:
    return SimpleNamespace(data=InMemoryPixels(count), accelerator=accelerator)


def test_a_posterior_collapse_is_one_line(cpu_accelerator, capsys):
    objective, _ = make_objective(vae, "resnet")
    objective.eval()
    with torch.no_grad():
        objective.decoder.posterior.weight.mul_(100)
        assert objective.evaluate(held_out(cpu_accelerator))["active_dims"] == 6
        assert capsys.readouterr().err == ""
        objective.decoder.posterior.weight.zero_()
    assert objective.evaluate(held_out(cpu_accelerator))["active_dims"] == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: posterior collapse: 0 of 6 latent dimensions")
    sections = objective.draw_gallery(held_out(cpu_accelerator))
    assert [len(rows) for _, rows in sections] == [3, 2, 3, 1]
    assert all(cell.dtype == np.uint8 and cell.shape == (32, 32, 3) for _, rows in sections for cell in sum(rows, []))


def test_the_worst_drawn_images_are_named_first(cpu_accelerator):
    objective, _ = make_objective(vae, "convnextv2")
    data = held_out(cpu_accelerator, 12)
    with torch.no_grad():
        objective.decoder.posterior.weight.zero_()
    data.data.pixels[5] = 255
    assert np.array_equal(objective.eval().draw_gallery(data)[-1][1][0][0], data.data.pixels[5])


def test_translations_that_collapse_are_one_line(cpu_accelerator, capsys):
    objective, _ = make_objective(cyclegan, "convnextv2")
    objective.eval()
    metrics = objective.evaluate(held_out(cpu_accelerator))
    assert 0 < metrics["cycle_error"] < 1 and metrics["translation_spread"] > 0
    with torch.no_grad():
        objective.to_other.output[-1].bias.fill_(30)
    assert objective.evaluate(held_out(cpu_accelerator))["translation_spread"] < 1e-3
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapse" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: the translations collapse")


def test_noise_of_images_is_blur_noise_and_a_hole():
    config = denoise.Config(pixel_noise=0.0, hole_area=0.2, blur=2.0)
    dataset = NoisyImageDataset(config, InMemoryPixels(), Views(horizontal_flip=0), tiny_image_encoder())
    inputs = make_batch(dataset, [0, 1, 2]).inputs
    images = inputs["pixels"].permute(0, 3, 1, 2) / 255
    noise = {name: inputs[name] for name in ("seeds", "holes", "blur")}
    noisy = add_noise(config, images, **noise)
    for image, found, hole, sigma in zip(images, noisy, inputs["holes"], inputs["blur"], strict=True):
        assert 0 < sigma < 2
        expected = np.stack([gaussian_filter(each, float(sigma), radius=6, mode="nearest") for each in image.numpy()])
        left, top, right, bottom = (32 * hole).tolist()
        assert (right - left) * (bottom - top) == pytest.approx(0.2 * 32 * 32, rel=1e-4)
        for y, x in np.ndindex(32, 32):
            if left <= x + 0.5 < right and top <= y + 0.5 < bottom:
                expected[:, y, x] = image.mean((1, 2))
        assert np.allclose(found, expected, atol=1e-4)
    loud = denoise.Config(pixel_noise=0.3, hole_area=0.0, blur=0.0)
    added = add_noise(loud, images, noise["seeds"], torch.zeros(3, 4), torch.zeros(3)) - images
    assert added.std() == pytest.approx(0.3, rel=0.05) and not torch.equal(added[0], added[1])
    alone = add_noise(loud, images[1:2], noise["seeds"][1:2], torch.zeros(1, 4), torch.zeros(1)) - images[1:2]
    assert torch.equal(alone[0], added[1])


def test_a_decoder_that_ignores_the_embeddings_is_reported_from_the_second_evaluation_on(cpu_accelerator, capsys):
    objective, _ = make_objective(denoise, "resnet")
    objective.eval()
    with torch.no_grad():
        objective.decoder.input.weight.zero_()
    metrics = objective.evaluate(held_out(cpu_accelerator))
    assert metrics["reconstruction_error"] > 0 and metrics["embedding_gain"] == pytest.approx(0, abs=1e-3)
    assert capsys.readouterr().err == ""
    objective.evaluate(held_out(cpu_accelerator))
    assert "the decoder ignores the embeddings" in capsys.readouterr().err
    ((title, rows),) = objective.draw_gallery(held_out(cpu_accelerator))
    assert title.startswith("Held-out images") and [len(row) for row in rows] == [3, 3, 3]
    assert not np.array_equal(rows[0][0], rows[0][1])


def test_cyclegan_without_a_second_corpus_is_one_line():
    with pytest.raises(ConfigError, match=r"^objective.other: cyclegan needs a second corpus"):
        cyclegan.Config().validate_training(8, 0.0, 128)


@pytest.mark.parametrize(
    "network", [ImageDecoder(5, 3, 30, 4, True), LatentDecoder(7, 5, 1, 16, 4), ImageTranslator(3, 4, 1)]
)
def test_a_saved_generator_makes_the_same_images(tmp_path, network):
    save_generator(tmp_path, network)
    loaded = load_generator(tmp_path)
    inputs = torch.rand(2, 3, 32, 32) if isinstance(network, ImageTranslator) else torch.randn(2, 5)
    with torch.no_grad():
        images = network(inputs)
        assert torch.equal(loaded(inputs), images) and 0 <= images.min() and images.max() <= 1
    if not isinstance(network, ImageTranslator):
        assert torch.equal(sample_images(loaded, 3), sample_images(network, 3))
        assert images.shape[-1] == network.options["size"]
    (tmp_path / "config.json").write_text('{"network": "ImageDecoder", "dim": "x"}')
    with pytest.raises(DataError, match="not a generator"):
        load_generator(tmp_path)
