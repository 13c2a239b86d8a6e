"""Whether a folder says what was recorded: asked in a process of its own, with nothing of ours, as anybody would.

    python -P fresh.py FOLDER [SAMPLE.json]     prints {"worst": largest difference from the sample, "missing": [...]}

It imports transformers alone (and peft for an adapter), and is run by publish.hub.checks from outside the project.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer


def load_model(folder: pathlib.Path, record: dict) -> tuple[torch.nn.Module, set[str]]:
    """(the network in evaluation, its weights that the folder lacks)."""
    auto = (
        AutoModel
        if record["kind"] == "encoder"
        else (
            AutoModelForTokenClassification
            if record.get("problem_type") == "token_classification"
            else AutoModelForSequenceClassification
        )
    )
    adapter = (folder / "adapter_config.json").is_file()
    network, told = auto.from_pretrained(folder / "base" if adapter else folder, output_loading_info=True)
    if adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, folder)
    # What pools the first token, in architectures that have it, is no part of an encoder of ours.
    missing = {name for name in told["missing_keys"] if record["kind"] == "model" or not name.startswith("pooler.")}
    return network.eval(), missing


def model_output(model: torch.nn.Module, inputs: dict, record: dict) -> torch.Tensor:
    """What the sample holds of one text: its vector, probabilities or number."""
    output = model(**inputs)
    if record["kind"] == "encoder":
        states = output.last_hidden_state[0]
        return states[0] if record.get("pooling") == "cls" else states.mean(0)
    logits, learns = output.logits[0], record.get("problem_type", "single_label_classification")
    return (
        logits.sigmoid()
        if learns == "multi_label_classification"
        else logits
        if learns == "regression"
        else logits.softmax(-1)
    )


@torch.no_grad()
def main(folder_name: str, sample_path: str = "") -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = pathlib.Path(folder_name)
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    network, missing = load_model(folder, record)
    tokenizer, worst = AutoTokenizer.from_pretrained(folder), 0.0
    if sample_path:
        kept = json.loads(pathlib.Path(sample_path).read_text(encoding="utf-8"))
        for texts, expected in zip(kept["texts"], kept["said"]):
            inputs = tokenizer(*texts, truncation=True, max_length=kept["longest"], return_tensors="pt")
            expected, found = torch.tensor(expected), model_output(network, inputs, record).float()
            apart = (found - expected).abs() / expected.abs().clamp(min=1) if found.shape == expected.shape else None
            worst = max(worst, float("inf") if apart is None else apart.nan_to_num(torch.inf).max().item())
    print(json.dumps({"worst": worst, "missing": sorted(missing)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
