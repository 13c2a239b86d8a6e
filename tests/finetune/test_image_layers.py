"""Depths, learning rates and gradual unfreezing of image encoders, by the order of their modules."""

from __future__ import annotations

import pytest
import torch
import transformers

from engine.models.batch_norm import freeze_batch_norm
from finetune.config import Layers
from finetune.model.image_network import LayerStatistics
from finetune.model.layerwise import (
    find_depths,
    freeze_below,
    freeze_schedule,
    lr_scale,
    record_modules_below,
    split_layers,
)

SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SMALL_VIT |= {"image_size": 32, "patch_size": 8}
SMALL_STAGES = {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1]}
ARCHITECTURES = {
    "resnet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "layer_type": "basic"},
    ),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320}),
    "convnextv2": ("ConvNextV2", {**SMALL_STAGES, "num_stages": 3}),
    "vit": ("ViT", SMALL_VIT),
    "dinov2": ("Dinov2", SMALL_VIT),
}


def make(name: str) -> transformers.PreTrainedModel:
    """Return a small image classifier."""
    prefix, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**settings, num_labels=2)
    model = getattr(transformers, f"{prefix}ForImageClassification")(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # without statistics of its own, a deep network has outputs near zero
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(16, 3, 32, 32))
    freeze_batch_norm(model)
    model.eval()
    return model


def depths_in_order(model: transformers.PreTrainedModel) -> tuple[list[int], dict[str, int], int]:
    """Return the depth of each parameter in the order in which a forward pass first uses it, and by name."""
    num_layers = len(split_layers(model))
    with record_modules_below(model) as below, torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, 32, 32))
    depths = find_depths(model, num_layers, below).parameters
    used, hooks = [], []
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        hooks.append(module.register_forward_pre_hook(lambda *_, parameters=parameters: used.extend(parameters)))
    with torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return [depths[parameter] for parameter in used], {n: depths[p] for n, p in model.named_parameters()}, num_layers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rates_rise_from_the_stem_to_the_head_without_a_gap(name):
    model = make(name)
    in_order, by_name, num_layers = depths_in_order(model)
    assert num_layers == {"efficientnet": 10}.get(name, 3)
    assert in_order == sorted(in_order, reverse=True), "a later parameter is never deeper"
    assert set(in_order) == set(range(num_layers + 2)), "every depth occurs"
    base = f"{model.base_model_prefix}."
    for parameter, depth in by_name.items():
        inside = parameter.removeprefix(base)
        if not parameter.startswith(base):
            assert depth == 0, f"{parameter}: the head"
        elif inside.startswith(("embeddings.", "embedder.")):
            assert depth == num_layers + 1, f"{parameter}: the stem"
        else:
            assert 1 <= depth <= num_layers, parameter
    config = Layers(lr_decay=0.5, head_lr=1.0)
    rates = [lr_scale(depth, config, lr=1.0) for depth in in_order]
    assert rates == sorted(rates) and rates[0] == 0.5**num_layers and rates[-1] == 1.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradual_unfreezing_moves_exactly_the_layers_it_should(name):
    model = make(name).train()
    _, by_name, num_layers = depths_in_order(model)
    config = Layers(head_lr=0.1, unfreeze_every=1, unfreeze_unit="steps", unfreeze_group=1, train_embeddings=True)
    num_steps = num_layers + 2
    schedule = freeze_schedule(num_steps, num_layers, config, steps_per_epoch=1)
    depths = find_depths(model, num_layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 1])
    for step in range(num_steps):
        before = {parameter: value.detach().clone() for parameter, value in model.named_parameters()}
        freeze_below(depths, schedule[step][0], set())
        optimizer.zero_grad(set_to_none=True)
        model(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
        moved = {by_name[n] for n, value in model.named_parameters() if not value.equal(before[n])}
        assert max(moved) <= step, "nothing below the layers of this step moves"
        assert moved == set(range(step + 1)), "every layer of this step moves"


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_layer_statistics_are_those_of_each_hidden_state_and_the_same_for_a_mirrored_image(name):
    model = make(name).eval()
    model = getattr(model, model.base_model_prefix)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = LayerStatistics(model, flip=True).predict(images)
        expected = torch.zeros_like(features)
        for row in range(len(images)):
            for view in (images[row : row + 1], images[row : row + 1].flip(-1)):
                output, values = model(pixel_values=view, output_hidden_states=True), []
                for state in (*output.hidden_states, output.last_hidden_state):
                    channels = state[0].flatten(1) if state.ndim == 4 else state[0].T
                    for numbers in channels.numpy().mean(1), channels.numpy().std(1, ddof=1):
                        values.extend(numbers.tolist())
                expected[row] += torch.tensor(values) / 2
        mirrored = LayerStatistics(model, flip=True).predict(images.flip(-1))
        one_view = LayerStatistics(model, flip=False).predict(images)
    assert (features - expected).abs().max() < 1e-4 and (features - mirrored).abs().max() < 1e-4
    assert (features - one_view).abs().max() > 1e-3
