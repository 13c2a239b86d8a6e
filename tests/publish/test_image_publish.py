"""Publishing image models: an encoder and a classifier load from a hub by name, in six ways, and give the same."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from helpers import ROOT, RUN_COMMANDS, run_module
from hub import HubServer
from PIL import Image
from tiny_images import draw_images

from publish.hub.checks import ALLOWED_FILES

PUBLISH = """
import json, sys
from publish.__main__ import main
from publish.export.__main__ import main as export
export(["out/runs/mod", "rounds=1"])
for args in json.loads(sys.argv[1]):
    main(args)
"""
LOAD = """
import re, runpy, sys
import numpy as np, torch
from huggingface_hub import ModelCard, snapshot_download
from onnxruntime import InferenceSession
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

photos = [Image.open(path).convert("RGB") for path in sys.argv[1:]]
for name in ("me/enc", "me/mod"):
    card = ModelCard.load(name)
    card.validate()
    assert card.data.eval_results and card.data.pipeline_tag
    for block in re.findall(r"```python\\n(.*?)```", card.text, re.DOTALL):
        exec(block, {})
with torch.no_grad():
    inputs = AutoImageProcessor.from_pretrained("me/mod")(photos, return_tensors="pt")
    logits = AutoModelForImageClassification.from_pretrained("me/mod").eval()(**inputs).logits
    inputs = AutoImageProcessor.from_pretrained("me/enc")(photos, return_tensors="pt")
    states = AutoModel.from_pretrained("me/enc").eval()(**inputs).last_hidden_state
best = logits.softmax(-1).max(-1)
for (found, *_), score, index in zip(pipeline("image-classification", "me/mod")(photos), best.values, best.indices):
    assert abs(found["score"] - score) < 1e-5 and found["label"] == ("circle", "square")[index]
vectors = SentenceTransformer("me/enc", device="cpu").encode(photos)
assert np.abs(vectors - states.flatten(2).mean(2).numpy()).max() < 1e-5
folder = snapshot_download("me/mod")
inputs = AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="np")
outputs = InferenceSession(f"{folder}/onnx/model.onnx").run(None, {"pixel_values": inputs["pixel_values"]})[0]
assert np.abs(outputs - logits.numpy()).max() < 1e-4 and np.std(outputs) > 0
sys.argv = ["example.py", *sys.argv[1:]]
runpy.run_path(f"{folder}/onnx/example.py", run_name="__main__")
print("labels", *(("circle", "square")[index] for index in best.indices))
"""


@pytest.mark.slow
def test_published_image_models_load_by_name_in_six_ways(tmp_path):
    """Also: the card has data, license and figures, and no picture is published."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/cache").symlink_to(ROOT / "out/cache")
    photos = []
    for number, pixels in enumerate(draw_images(80)):
        label = ("circle", "square")[number % 2]
        path = tmp_path / "photos" / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels[..., number % 2] = np.maximum(pixels[..., number % 2], 140)
        Image.fromarray(pixels).resize((40, 36)).save(path)
        photos.append(str(path))
    small = ["pixels.size=32", "model.hidden_size=32", "train.batch_size=16", "train.steps=6", "train.lr=1e-3"]
    source = "folder: photos, license: CC-BY-SA-4.0"
    commands = [
        (
            "pretrain",
            ["modality=images", "corpus.name=shapes", f"corpus.sources=[{{{source}}}]", "run=enc", *small]
            + ["corpus.held_out=0.2", "objective.name=simsiam", "model.architecture=resnet"],
        ),
        (
            "finetune",
            ["configs/finetune/images.yaml", "task.name=shapes", "task.modality=images", "run=mod"]
            + [f"task.train={{{source}}}", "task.pixels.size=32", "encoder=out/runs/enc/encoder", "train.max_steps=20"],
        ),
    ]
    (tmp_path / "driver.py").write_text(RUN_COMMANDS)
    done = run_module("driver.py", json.dumps(commands), prefix=(sys.executable,), cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    sample = json.loads((tmp_path / "out/runs/enc/sample.json").read_text())
    assert len(sample["images"]) == len(sample["outputs"]) > 5 and len(sample["outputs"][0]) == 32
    with HubServer() as hub:
        environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
        commands = [[f"run=out/runs/{name}", f"repo=me/{name}"] for name in ("enc", "mod")]
        done = run_module("-c", PUBLISH, json.dumps(commands), prefix=(sys.executable,), cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.count("reproduces the recorded outputs") == 2
        for name in ("enc", "mod"):
            files = hub.repositories[f"models/me/{name}"].files()
            assert files.keys() <= {*ALLOWED_FILES, ".gitattributes"}
            assert not any(b"\x89PNG" in content or b"data:image" in content for content in files.values())
            card = files["README.md"].decode()
            assert "CC-BY-SA-4.0" in card and "shapes" in card and "Test-set contamination" in card
            kept = re.search(r"\*\*Images: `shapes`.\*\* (\d+) of 80 images, as squares of 32 pixels", card)
            assert kept and 0 < int(kept[1]) <= 80
            assert "accuracy" in card and " cores of " in card
        (tmp_path / "elsewhere").mkdir()
        Image.open(photos[0]).save(tmp_path / "elsewhere/photo.jpg")
        options = {"prefix": (sys.executable, "-P"), "cwd": tmp_path / "elsewhere", "PYTHONPATH": "", **environment}
        loaded = run_module("-c", LOAD, *photos[:6], **options)
    assert loaded.returncode == 0, loaded.stderr
    lines = loaded.stdout.splitlines()
    labels = lines[-1].split()[1:]
    assert [line.split()[0] for line in lines[-7:-1]] == labels and len(labels) == 6
