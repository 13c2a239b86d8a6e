"""Check in a separate process, without this project, that a folder loads and reproduces its recorded outputs.

    python -P load_check.py FOLDER AUTO_CLASS OUTPUT [SAMPLE.json]
    prints {"max_difference": float, "missing_weights": [...]}

AUTO_CLASS: the class of transformers that loads the folder. OUTPUT: what the sample holds of one input, its embedding
by the pooling mean, cls or lasttoken, its logits after the function softmax, sigmoid or none, or its anomaly_score by
the folder's normal_rows.safetensors. The script imports only transformers (and peft for an adapter).
engine.models.verify runs it outside the project.
"""

import base64
import gc
import io
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoTokenizer


def load_model(folder: pathlib.Path, auto_class: str) -> tuple[torch.nn.Module, set[str]]:
    """Return (the model in evaluation mode, names of weights that the folder lacks)."""
    is_adapter = (folder / "adapter_config.json").is_file()
    model, info = getattr(transformers, auto_class).from_pretrained(
        folder / "base" if is_adapter else folder,
        output_loading_info=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if is_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    # An encoder is saved without the first-token pooler that some architectures have.
    missing = {name for name in info["missing_keys"] if auto_class != "AutoModel" or not name.startswith("pooler.")}
    return model.eval(), missing


def mean_state(output: object) -> torch.Tensor:
    """Return the mean of the last hidden states: of (positions, width), or of maps (width, height, width of a map)."""
    states = output.last_hidden_state[0]
    return states.flatten(1).mean(1) if states.ndim == 3 else states.mean(0)


OUTPUTS = {
    "mean": mean_state,
    "cls": lambda output: output.last_hidden_state[0, 0],
    "lasttoken": lambda output: output.last_hidden_state[0, -1],
    "softmax": lambda output: output.logits[0].softmax(-1),
    "sigmoid": lambda output: output.logits[0].sigmoid(),
    "none": lambda output: output.logits[0],
}


def anomaly_scorer(folder: pathlib.Path) -> Callable:
    """Return a function from a model's output to the score, (1,), as the folder's card computes it."""
    normal = load_file(folder / "normal_rows.safetensors")

    def score(output) -> torch.Tensor:
        states = [output.hidden_states[layer] for layer in normal["layers"]]
        means = [normalize(layer.mean((2, 3) if layer.ndim == 4 else 1)) for layer in states]
        vector = (torch.cat(means, 1) - normal["center"]) @ normal["projection"]
        if count := int(normal["neighbors"]):
            return torch.cdist(vector, normal["vectors"].float()).topk(count, largest=False).values.mean(1)
        return vector.norm(dim=1)

    return score


def tokenize(folder: pathlib.Path, sample: dict) -> Iterator[dict]:
    """Yield the network's inputs for each text of a sample."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for texts in sample["texts"]:
        yield tokenizer(*texts, truncation=True, max_length=sample["max_length"], return_tensors="pt")


def read_images(folder: pathlib.Path, sample: dict) -> Iterator[dict]:
    """Yield the network's inputs for each image of a sample, a PNG file in base64."""
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    for content in sample["images"]:
        yield processor(Image.open(io.BytesIO(base64.b64decode(content))), return_tensors="pt")


@torch.no_grad()
def check(folder_name: str, auto_class: str, output_name: str, sample_path: str = "") -> dict:
    """Return the largest difference from the sample, relative to values above 1, and the missing weights."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = pathlib.Path(folder_name)
    model, missing = load_model(folder, auto_class)
    max_difference = 0.0
    output_fn = anomaly_scorer(folder) if output_name == "anomaly_score" else OUTPUTS[output_name]
    if sample_path:
        sample = json.loads(pathlib.Path(sample_path).read_text(encoding="utf-8"))
        all_inputs = (read_images if "images" in sample else tokenize)(folder, sample)
        for inputs, expected in zip(all_inputs, map(torch.tensor, sample["outputs"]), strict=True):
            output, difference = output_fn(model(**inputs)).float(), float("inf")
            if output.shape == expected.shape:
                relative = (output - expected).abs() / expected.abs().clamp(min=1)
                difference = relative.nan_to_num(torch.inf).max().item()
            max_difference = max(max_difference, difference)
    return {"max_difference": max_difference, "missing_weights": sorted(missing)}


if __name__ == "__main__":
    print(json.dumps(check(*sys.argv[1:])))
    gc.freeze()  # or the collection at exit visits all that is imported, for a second
