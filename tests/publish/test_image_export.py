"""ONNX export of image models: graphs match torch for any number of images, and run without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import error_lines, run_module
from PIL import Image
from tiny_images import draw_images
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ConvNextV2Config,
    Dinov2Config,
    EfficientNetConfig,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
)

from data.images.processor import Processor, write_processor
from data.images.reference_outputs import encode_images

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnxruntime import InferenceSession  # noqa: E402 (skipped above where onnx is missing)
from test_export import WITHOUT_TORCH  # noqa: E402

from publish.export import __main__ as export  # noqa: E402

LABELS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
TRANSFORMER = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    **{"image_size": 32, "patch_size": 8, "initializer_range": 0.2},
}
CONFIGS = {
    "resnet": ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", **LABELS),
    "efficientnet": EfficientNetConfig(width_coefficient=0.2, depth_coefficient=0.1, hidden_dim=256, **LABELS),
    "convnextv2": ConvNextV2Config(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, patch_size=4, **LABELS),
    "vit": ViTConfig(**TRANSFORMER, **LABELS),
    "dinov2": Dinov2Config(mlp_ratio=2, **TRANSFORMER, **LABELS),
}
# The others take ten seconds of one core together.
ARCHITECTURES = [name if name in ("resnet", "vit") else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]


@pytest.fixture(autouse=True)
def restore_threads():
    """Undo the number of threads that the command sets for timing."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_run(folder: Path, architecture: str, auto_class: type = AutoModelForImageClassification) -> Path:
    """Write a run with a network of random weights and 20 labeled images, and return its model folder."""
    torch.manual_seed(0)
    inside = folder / ("encoder" if auto_class is AutoModel else "model")
    model = auto_class.from_config(CONFIGS[architecture])
    if norms := [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        for module in norms:
            module.momentum = None  # the statistics of the batch below, with which images get different outputs
            torch.nn.init.ones_(module.weight)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        model.train()(pixel_values=torch.from_numpy(draw_images(20)).permute(0, 3, 1, 2) / 127.5 - 1)
    model.save_pretrained(inside)
    write_processor(inside, Processor(32))
    images = draw_images(20)
    content = {"images": encode_images(images), "labels": ["cat", "dog"] * 10, "outputs": []}
    (folder / ("sample.json" if auto_class is AutoModel else "test.json")).write_text(json.dumps(content))
    (folder / "photos").mkdir()
    for number, pixels in enumerate(images):
        # Larger than the network's, in another form, and some of them gray.
        image = Image.fromarray(pixels).resize((80, 50 + number))
        (image.convert("L") if number % 2 else image).save(folder / f"photos/{number:02}.png")
    return inside


def check_graph(inside: Path, model: torch.nn.Module) -> list[np.ndarray]:
    """Compare the graph with transformers on each image alone; return the outputs."""
    processor, session = AutoImageProcessor.from_pretrained(inside), InferenceSession(inside / "onnx/model.onnx")
    assert [node.shape for node in session.get_inputs()] == [["images", 3, 32, 32]]
    photos = [Image.open(path).convert("RGB") for path in sorted((inside.parent / "photos").iterdir())]
    outputs = []
    for photo in photos:
        with torch.no_grad():
            output = model(**processor(photo, return_tensors="pt"))
        states = output.get("last_hidden_state")
        axes = (2, 3) if states is not None and states.ndim == 4 else 1
        outputs.append((output.logits if states is None else states.mean(axes))[0].numpy())
    for count in (1, 7):  # not the number that was traced
        inputs = {"pixel_values": processor(photos[:count], return_tensors="np")["pixel_values"]}
        for expected, result in zip(outputs, session.run(None, inputs)[0], strict=False):
            assert np.abs(expected - result).max() < 1e-4 * max(1, np.abs(expected).max())
    assert np.std(outputs, axis=0).max() > 0.01, "images get different outputs"
    return outputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graph_of_a_classifier_matches_torch_and_runs_without_it(architecture, workspace, tmp_path, capsys):
    inside = write_run(tmp_path, architecture)
    export.main([str(tmp_path), "rounds=1"])
    assert "ms per image, batch of 32" in capsys.readouterr().out
    outputs = check_graph(inside, AutoModelForImageClassification.from_pretrained(inside).eval())
    report = json.loads((inside / "onnx/export.json").read_text())
    assert report["inputs"] == "images" and report["num_inputs"] == 20
    assert report["backends"]["float32"]["max_abs_diff"] < 1e-4 * max(1, report["max_abs_output"])
    assert report["backends"]["float32"]["agreement"] == 1 and 0 <= report["backends"]["float32"]["score"] <= 1
    script, photos = inside / "onnx/example.py", [str(tmp_path / f"photos/{name}.png") for name in ("00", "01", "02")]
    done = run_module("-c", WITHOUT_TORCH, str(script), *photos, prefix=(sys.executable, "-P"), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    expected = []
    for output, photo in zip(outputs, photos, strict=False):
        probabilities = torch.tensor(output).softmax(-1)
        expected.append(f"{['cat', 'dog', 'owl'][probabilities.argmax()]}  {probabilities.max():.3f}  {photo}")
    assert done.stdout.splitlines() == expected


def test_graph_of_an_encoder_gives_its_mean_state(workspace, tmp_path):
    inside = write_run(tmp_path, "convnextv2", AutoModel)
    export.main([str(tmp_path), "rounds=1"])
    check_graph(inside, AutoModel.from_pretrained(inside).eval())
    assert json.loads((inside / "onnx/export.json").read_text())["backends"]["float32"]["agreement"] > 1 - 1e-6


def test_int8_is_for_transformers_and_a_folder_of_images_may_be_given(workspace, tmp_path, capsys, monkeypatch):
    def errors(*args: object) -> list[str]:
        return error_lines(export.main, list(args), capsys, monkeypatch)

    inside = write_run(tmp_path / "a", "resnet")
    (line,) = errors(tmp_path / "a", "quantize=int8")
    assert line.startswith("quantize: ") and line.endswith(
        "% of the weights of resnet are convolutions, which stay in float32"
    )
    (tmp_path / "a/test.json").unlink()
    assert errors(tmp_path / "a") == [f"{tmp_path / 'a'}: no test.json or sample.json to measure on; set images=FOLDER"]
    assert errors(tmp_path / "a", "texts=b.txt") == [f"texts: {inside} reads images"]
    assert errors(tmp_path / "a", f"images={tmp_path}/a/photo") == [
        f"{tmp_path}/a/photo: no such folder (nearest: photos)"
    ]
    assert not (inside / "onnx").exists()
    # As a folder made elsewhere: no record, another kind of processor, which does not keep the shape of an image.
    inside = write_run(tmp_path / "b", "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(inside)
    (tmp_path / "b/test.json").unlink()
    export.main([str(tmp_path / "b"), "rounds=1", "quantize=int8", f"images={tmp_path / 'b/photos'}"])
    backends = json.loads((inside / "onnx/export.json").read_text())["backends"]
    assert backends["float32"]["max_abs_diff"] < 1e-4 < backends["int8"]["max_abs_diff"] < 0.5
    script = (inside / "onnx/example.py").read_text()
    assert "model_int8.onnx" in script and "('RGB', 32, 32, 0, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))" in script
