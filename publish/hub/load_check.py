"""Check in a separate process, without this project, that a folder loads and reproduces its recorded outputs.

    python -P load_check.py FOLDER [SAMPLE.json]     prints {"max_difference": float, "missing_weights": [...]}

It imports only transformers (and peft for an adapter). publish.hub.checks runs it from outside the project.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer


def load_model(folder: pathlib.Path, record: dict) -> tuple[torch.nn.Module, set[str]]:
    """Return (the model in evaluation mode, names of weights that the folder lacks)."""
    auto_class = AutoModelForSequenceClassification
    if record["kind"] == "encoder":
        auto_class = AutoModel
    elif record["problem_type"] == "token_classification":
        auto_class = AutoModelForTokenClassification
    is_adapter = (folder / "adapter_config.json").is_file()
    model, info = auto_class.from_pretrained(folder / "base" if is_adapter else folder, output_loading_info=True)
    if is_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    # An encoder is saved without the first-token pooler that some architectures have.
    missing = {name for name in info["missing_keys"] if record["kind"] == "model" or not name.startswith("pooler.")}
    return model.eval(), missing


def model_output(model: torch.nn.Module, inputs: dict, record: dict) -> torch.Tensor:
    """Compute what the sample holds of one text: its embedding, probabilities or number."""
    output = model(**inputs)
    if record["kind"] == "encoder":
        states = output.last_hidden_state[0]
        return states[0] if record.get("pooling") == "cls" else states.mean(0)
    logits = output.logits[0]
    if record["problem_type"] == "regression":
        return logits
    return logits.sigmoid() if record["problem_type"] == "multi_label_classification" else logits.softmax(-1)


@torch.no_grad()
def main(folder_name: str, sample_path: str = "") -> None:
    """Print the largest difference from the sample, relative to values above 1, and the missing weights."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = pathlib.Path(folder_name)
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    model, missing = load_model(folder, record)
    tokenizer, max_difference = AutoTokenizer.from_pretrained(folder), 0.0
    if sample_path:
        sample = json.loads(pathlib.Path(sample_path).read_text(encoding="utf-8"))
        for texts, expected in zip(sample["texts"], map(torch.tensor, sample["outputs"]), strict=True):
            inputs = tokenizer(*texts, truncation=True, max_length=sample["max_length"], return_tensors="pt")
            output, difference = model_output(model, inputs, record).float(), float("inf")
            if output.shape == expected.shape:
                relative = (output - expected).abs() / expected.abs().clamp(min=1)
                difference = relative.nan_to_num(torch.inf).max().item()
            max_difference = max(max_difference, difference)
    print(json.dumps({"max_difference": max_difference, "missing_weights": sorted(missing)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
