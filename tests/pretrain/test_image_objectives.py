"""Pretraining on images: objectives, batch statistics, the saved folder, collapse."""

from __future__ import annotations

import copy
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import ARCHITECTURES, InMemoryPixels, draw_images, make_objective, tiny_image_encoder
from tiny_models import make_batch

from data.images.config import Pixels
from data.images.views import Views
from data.sampling import take_evenly
from engine.errors import ConfigError
from engine.training.preflight import activation_bytes
from pretrain.collapse import CollapseMonitor
from pretrain.image_probe import ImageProbe
from pretrain.image_validation import ImageValidator
from pretrain.image_views import ImageViewDataset
from pretrain.modalities.images import Modality
from pretrain.model.batch_statistics import computed_statistics, list_batch_norms
from pretrain.model.image_encoder import (
    STATISTICS_IMAGES,
    image_encoder_from_pretrained,
    measure_channels,
    normalized,
    save_image_encoder,
    statistics_batches,
)
from pretrain.objective import HeldOut
from pretrain.objectives import contrastive, cyclegan, denoise, dino, gan, mae, simsiam, vae
from pretrain.objectives.mae import to_patches
from pretrain.train import build_optimizer

OBJECTIVES = (contrastive, simsiam, mae, dino, denoise, vae, gan, cyclegan)


def gradients(objective, parts: list[dict]) -> list[torch.Tensor]:
    """Return the gradients of a step made of these micro-batches."""
    objective.train()
    if hasattr(objective, "cache_gradients"):
        cached = objective.cache_gradients([objective.embed(**part) for part in parts])
        parts = [part | more for part, more in zip(parts, cached, strict=True)]
    outputs = [objective(**part) for part in parts]
    (sum(output.loss for output in outputs) / sum(output.count for output in outputs)).backward()
    return [each.grad.clone() for each in objective.parameters() if each.grad is not None]


@pytest.mark.parametrize("architecture", ["convnextv2", "vit", "dinov2"])
@pytest.mark.parametrize("file", OBJECTIVES)
def test_the_gradient_is_the_same_however_a_batch_is_cut(file, architecture):
    if file is mae and architecture == "convnextv2":
        pytest.skip("mae needs a transformer on patches")
    results = []
    for sizes in ([8], [2, 2, 2, 2], [5, 3]):
        objective, dataset = make_objective(file, architecture)
        rows = np.split(np.arange(8), np.cumsum(sizes)[:-1])
        results.append(gradients(objective, [make_batch(dataset, part.tolist(), 3).inputs for part in rows]))
        objective.after_step(0)
    largest = max(gradient.abs().max() for gradient in results[0])
    assert largest > 0 and len({len(result) for result in results}) == 1
    for others in results[1:]:
        pairs = zip(results[0], others, strict=True)
        assert max((one - other).abs().max() for one, other in pairs) < 1e-5 * largest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns(architecture):
    objective, dataset = make_objective(simsiam, architecture)
    inputs, optimizer = make_batch(dataset, list(range(8))).inputs, torch.optim.AdamW(objective.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = objective.train()(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01 and all(np.isfinite(losses))


@pytest.mark.parametrize("architecture", ["resnet", "efficientnet"])
def test_batch_statistics_of_a_new_network_never_move(cpu_accelerator, architecture):
    objective, dataset = make_objective(contrastive, architecture)
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    inputs = make_batch(dataset, [0, 1]).inputs
    activation_bytes(objective.train(), inputs, cpu_accelerator)
    objective(**inputs | {"view_params": inputs["view_params"] * torch.nan})
    validator = ImageValidator(InMemoryPixels(6), InMemoryPixels(6), cpu_accelerator)
    metrics = validator(objective.encoder.eval())
    assert np.isfinite(metrics["mrr"]) and metrics["num_candidates"] == 6
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in objective.named_buffers())


def test_computed_statistics_are_those_of_the_current_weights():
    """Of the first layer, compared with means over all positions; those of other weights are others."""
    encoder, pixels = tiny_image_encoder("resnet").eval(), InMemoryPixels(8).pixels
    images, first = normalized(encoder, pixels, torch.device("cpu")), list_batch_norms(encoder.model)[0]
    convolution = encoder.model.embedder.embedder.convolution
    with torch.no_grad():
        for _ in range(2):
            with computed_statistics(encoder.model, list(images.split(4))):
                outputs = convolution(images)
                assert torch.allclose(first.running_mean, outputs.mean((0, 2, 3)), atol=1e-5)
                halves = torch.stack([half.var((0, 2, 3)) for half in outputs.split(4)]).mean(0)
                assert torch.allclose(first.running_var, halves, rtol=1e-4)
                states = encoder.embed_images(images)
                assert torch.allclose(encoder.embed_images(images[:1]), states[:1], atol=1e-5)
            convolution.weight.mul_(2)
    assert not first.running_mean.any() and not first.training


def test_batch_normalization_of_brought_weights_stays_on_its_statistics(tmp_path, cpu_accelerator):
    encoder = tiny_image_encoder("resnet")
    save_image_encoder(encoder, tmp_path / "encoder", {"kind": "encoder"}, "# card\n")
    loaded = image_encoder_from_pretrained(tmp_path / "encoder", 32, 3, 0.0)
    before = copy.deepcopy(loaded.state_dict())
    loaded.train()
    batch = make_batch(ImageViewDataset(InMemoryPixels(), Views()), [0, 1, 2]).inputs
    batch.pop("group_ids")
    whole = loaded.embed(6, **batch)
    alone = loaded.embed(2, **{name: tensor[1:2] for name, tensor in batch.items()})
    assert torch.allclose(whole[2:4], alone, atol=1e-5), "an image's output depends on no other image"
    whole.sum().backward()
    assert list_batch_norms(loaded)[0].weight.grad.abs().sum() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.new_parameters and loaded.processor == encoder.processor


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_saved_folder_loads_everywhere_with_the_same_embeddings(tmp_path, architecture):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    encoder, images = tiny_image_encoder(architecture).eval(), InMemoryPixels(3).pixels
    with torch.no_grad():
        expected = encoder.embed_images(normalized(encoder, images, torch.device("cpu")))
    folder = tmp_path / "encoder"
    save_image_encoder(encoder, folder, {"kind": "encoder"}, "# card\n")
    pictures = [Image.fromarray(image) for image in images]
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    inputs = processor(pictures, return_tensors="pt")
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder, use_safetensors=True)
        states = model.eval()(**inputs).last_hidden_state
        states = states.flatten(2).mT if states.ndim == 4 else states
        assert torch.allclose(states.mean(1), expected, atol=1e-4)
        classifier = AutoModelForImageClassification.from_pretrained(folder, num_labels=3, use_safetensors=True)
        assert classifier.eval()(**inputs).logits.shape == (3, 3)
    embedded = SentenceTransformer(str(folder), device="cpu").encode(pictures, convert_to_tensor=True)
    assert torch.allclose(embedded, expected, atol=1e-4)


def test_mae_reads_the_visible_patches_alone():
    objective, dataset = make_objective(mae, "dinov2")
    objective.eval()
    batch = make_batch(dataset, [0, 1, 2]).inputs
    assert dataset.num_patches == 16 and batch["kept"].shape == (3, 4) and batch["view_params"].shape[1] == 1
    images = objective.encoder.make_views(batch["pixels"], batch["view_params"])
    patches, kept = to_patches(images, 8), batch["kept"]
    with torch.no_grad():
        predicted = objective.predict(images, kept)
        hidden = next(index for index in range(16) if index not in kept[0])
        row, column = divmod(hidden, 4)
        changed = images.clone()
        changed[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 3
        assert torch.allclose(objective.predict(changed, kept), predicted, atol=1e-5)
        row, column = divmod(int(kept[0, 0]), 4)
        changed[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 3
        assert not torch.allclose(objective.predict(changed, kept)[0], predicted[0], atol=1e-3)
        output, losses = objective(**batch), []
    for image in range(3):
        for patch in set(range(16)) - set(kept[image].tolist()):
            row, column = divmod(patch, 4)
            pixels = images[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(1, 2, 0).flatten()
            assert torch.equal(pixels, patches[image, patch])
            target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            losses.append((predicted[image, patch] - target).square().mean())
    assert output.count == len(losses) == 36 and torch.allclose(output.loss, sum(losses), rtol=1e-4)


def test_without_held_out_images_the_report_has_no_section_of_them(cpu_accelerator, monkeypatch):
    monkeypatch.setattr("pretrain.objectives.cyclegan.read_images", lambda *args: InMemoryPixels(0))
    for file in OBJECTIVES:
        objective, _ = make_objective(file)
        sections = objective.eval().draw_gallery(HeldOut(InMemoryPixels(0), cpu_accelerator))
        assert all(rows and "Held-out" not in title for title, rows in sections), file


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_held_out_images_are_not_measured(cpu_accelerator, count):
    for file in (denoise, vae, cyclegan):
        objective, _ = make_objective(file, "resnet")
        assert objective.eval().evaluate(HeldOut(InMemoryPixels(count), cpu_accelerator)) == {}, file


def test_mae_that_hides_nearly_all_shows_a_patch_in_the_report(cpu_accelerator):
    objective, dataset = make_objective(mae, mask_ratio=0.98)
    ((_, rows),) = objective.eval().draw_gallery(HeldOut(InMemoryPixels(2), cpu_accelerator))
    patches = rows[0][1].reshape(4, 8, 4, 8, 3)
    assert dataset.num_kept == (patches.std((1, 3, 4)) > 0).sum() == 1


def test_mae_of_a_network_without_patches_is_one_line():
    with pytest.raises(ConfigError, match=r"^objective.name: mae needs a transformer on patches .* resnet is not$"):
        mae.Objective(mae.Config(), tiny_image_encoder("resnet"))


def test_the_teacher_of_dino_follows_the_network_unless_an_update_is_left_out():
    objective, dataset = make_objective(dino, "vit")
    parts = [make_batch(dataset, [row], 0).inputs for row in range(4)]

    def step(is_bad: bool) -> tuple[dict, dict]:
        before = copy.deepcopy(objective.state_dict())
        objective.zero_grad()
        objective.train()
        loss = sum(objective(**part).loss for part in parts)
        (loss * torch.nan if is_bad else loss).backward()
        if not is_bad:
            with torch.no_grad():
                for weight in [*objective.encoder.parameters(), *objective.head.parameters()]:
                    if weight.grad is not None:
                        weight -= 0.1 * weight.grad
        objective.after_step(0)
        return before, objective.state_dict()

    before, after = step(is_bad=True)
    assert all(torch.equal(before[name], after[name]) for name in before)
    encoder, head = copy.deepcopy(objective.teacher)
    outputs = torch.cat([head(encoder.embed(2, part["pixels"], part["view_params"])) for part in parts])
    before, after = step(is_bad=False)
    name = "encoder.model.embeddings.patch_embeddings.projection.weight"
    teacher = name.replace("encoder.", "teacher.0.", 1)
    assert torch.allclose(after[teacher], 0.99 * before[teacher] + 0.01 * after[name], atol=1e-6)
    assert not torch.equal(after[teacher], before[teacher])
    assert torch.allclose(after["center"], 0.1 * outputs.mean(0), atol=1e-5) and after["center"].abs().sum() > 0.05
    assert not any(weight.requires_grad for weight in objective.teacher.parameters())


def test_a_collapse_is_reported_in_one_line(cpu_accelerator, caplog, capsys):
    encoder = tiny_image_encoder("convnextv2").eval()
    validator, monitor = ImageValidator(InMemoryPixels(10), InMemoryPixels(4), cpu_accelerator), CollapseMonitor()
    monitor.check(validator(encoder))
    assert "collapse" not in capsys.readouterr().out + caplog.text
    with torch.no_grad():
        for weight in encoder.model.encoder.stages[-1].parameters():
            weight.zero_()
    for _ in range(2):
        metrics = validator(encoder)
        monitor.check(metrics)
        assert metrics["effective_rank"] < 0.1
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if "collapse" in line]
    assert len(lines) == 1 and "effective rank fell from" in lines[0]


@pytest.mark.parametrize(
    ("rank", "retrieval", "is_reported"), [(11, 0.02, False), (9, 0.02, True), (9, 0.06, True), (9, 0.07, False)]
)
def test_a_low_rank_is_a_collapse_only_where_views_are_not_found_more_often(rank, retrieval, is_reported, capsys):
    monitor = CollapseMonitor()
    monitor.check({})
    monitor.check({"effective_rank": 40.0, "retrieval_acc@1": 0.06})
    monitor.check({"effective_rank": rank, "retrieval_acc@1": retrieval})
    assert ("collapse" in capsys.readouterr().err) == is_reported


def test_collate_is_a_pure_function_of_rows_and_step():
    for file in OBJECTIVES:
        _, dataset = make_objective(file)
        whole, again, later = (make_batch(dataset, [0, 1, 2], step).inputs for step in (3, 3, 4))
        part = make_batch(dataset, [1], 3).inputs
        assert all(torch.equal(whole[name], again[name]) for name in whole), file
        assert all(torch.equal(whole[name][1:2], part[name]) for name in whole), file
        assert any(not torch.equal(whole[name], later[name]) for name in whole if name != "pixels"), file


def test_a_gain_of_the_probe_is_above_its_standard_error():
    probe = ImageProbe.__new__(ImageProbe)
    for differences, expected in (([0.02, 0.03, 0.01], True), ([0.05, -0.06, 0.02], False), ([0.0, 0.0], False)):
        probe.measured = [np.full(len(differences), 0.8), 0.8 + np.array(differences)]
        assert probe.describe_gain()[0] == expected
    probe.measured = [np.array([0.5, 0.5]), np.array([0.6, 0.8])]
    assert probe.describe_gain() == (True, "+0.200 AUROC, standard error 0.100")


def write_probe_task(folder, counts: dict[str, int]) -> str:
    """Write images of classes, so many of each, and their task; return its path."""
    images = iter(draw_images(sum(counts.values())))
    for label, count in counts.items():
        (folder / "labeled" / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(next(images)).save(folder / "labeled" / label / f"{number}.png")
    (folder / "task.yaml").write_text("task: {name: t, modality: images, train: {folder: labeled}, label: label}\n")
    return str(folder / "task.yaml")


def test_a_probe_leaves_out_a_class_without_a_validation_row(tmp_path, monkeypatch, cpu_accelerator):
    monkeypatch.chdir(tmp_path)
    probe = ImageProbe(write_probe_task(tmp_path, {"a": 12, "b": 12, "c": 3}), [9], 2, Pixels(size=32))
    assert set(probe.labels[probe.num_train :]) == {"a", "b"}
    assert 0 <= probe.measure(tiny_image_encoder("vit").eval(), cpu_accelerator)["probe_auroc@9"] <= 1
    path = write_probe_task(tmp_path / "two", {"a": 12, "b": 3})
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"^probe.task: the validation rows of .*task.yaml have a single class"):
        ImageProbe(path, [9], 2, Pixels(size=32))


def test_too_large_a_sample_of_the_probe_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^probe.shots=1000: only \d+ training rows"):
        ImageProbe(write_probe_task(tmp_path, {"a": 12, "b": 12}), [9, 1_000], 2, Pixels(size=32))


def test_both_discriminators_of_cyclegan_learn_at_the_rate_of_init():
    objective, _ = make_objective(cyclegan, "resnet")
    train = SimpleNamespace(optimizer="adamw", lr=1e-3, beta1=0.5, beta2=0.99, weight_decay=0.0)
    config = SimpleNamespace(init="mine", head_lr_scale=10.0, train=train)
    encoder = objective.encoder
    groups = build_optimizer(config, objective, encoder, set(encoder.model.parameters())).param_groups
    scales = {weight: group["lr_scale"] for group in groups for weight in group["params"]}
    for discriminator in (objective.discriminator, objective.other_discriminator):
        assert {scales[weight] for weight in discriminator.encoder.parameters()} == {1.0}
        assert {scales[weight] for weight in discriminator.head.parameters()} == {10.0}
    assert {scales[weight] for weight in objective.to_other.parameters()} == {10.0}


def test_pictures_that_are_measured_are_from_the_whole_corpus():
    """A corpus in the order of its folders, of fewer than twice as many as are measured: half dark, half bright."""
    pixels = np.zeros((2 * STATISTICS_IMAGES - 1, 1, 1, 1), np.uint8)
    pixels[STATISTICS_IMAGES:] = 255
    assert measure_channels(pixels)[0] == pytest.approx((0.5,), abs=1e-3)


def test_statistics_of_many_images_are_computed_batch_by_batch(monkeypatch):
    pixels = draw_images(2_100)
    values = pixels[take_evenly(range(2_100), 2_000)] / 255
    expected = values.mean((0, 1, 2)), values.std((0, 1, 2))
    tracemalloc.start()
    measured = measure_channels(pixels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.abs(np.array(measured) - expected).max() <= 5.1e-5 and measured == measure_channels(pixels)
    assert peak < 10e6 < values.nbytes
    assert measure_channels(np.zeros((3, 8, 8, 1), np.uint8)) == ((0.0,), (0.01,))

    encoder, made, read = tiny_image_encoder("resnet").eval(), [], []

    def make(*args):
        made.append(args)
        return normalized(*args)

    monkeypatch.setattr("pretrain.model.image_encoder.normalized", make)
    encoder.model.register_forward_pre_hook(lambda *_: read.append(len(made)))
    with computed_statistics(encoder.model, statistics_batches(encoder, pixels[:600], torch.device("cpu"))):
        assert read == [1, 2, 3]


def test_recorded_outputs_are_those_of_a_copy_that_is_not_compiled(monkeypatch):
    """A compiled function belongs to the network in training, which may be on another device."""
    encoder, calls, modality = tiny_image_encoder("vit").eval(), [], Modality.__new__(Modality)
    modality.held_out, modality.validator = InMemoryPixels(2), SimpleNamespace(statistics=lambda _: nullcontext())
    plain = modality.record_outputs(encoder)

    def compile_function(forward):
        return lambda **inputs: calls.append(inputs) or forward(**inputs)

    monkeypatch.setattr(torch, "compile", compile_function)
    encoder.compile_layers()
    assert modality.record_outputs(encoder) == plain and not calls
    encoder.probe(32)
    assert len(calls) == 1
