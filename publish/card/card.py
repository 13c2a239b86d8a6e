"""Model card: the README.md of an encoder, model or adapter, generated from the run's record.

build_model_card(record)                                     the card in the run's folder
build_model_card(record, "user/name", licenses, study)       the card as published
"""

import hashlib
import json
import re
from collections.abc import Mapping

from huggingface_hub import ModelCardData

from publish.card import provenance, results
from publish.card.results import DEFAULT_METRICS as DEFAULT_METRICS, metric_title as metric_title

MAX_LABELS_LISTED = 30
STUDY_PLOT = "label-efficiency.png"
TASK_DESCRIPTIONS = {
    "single_label_classification": "A text classifier with the labels {labels}.",
    "multi_label_classification": "A multi-label text classifier with the labels {labels}. `config.json` holds a"
    " threshold for each label (`thresholds`), tuned on the validation set; a label applies from that probability on.",
    "regression": "A regression model that predicts `{labels}` for a text.",
    "token_classification": "A named-entity recognition model for entities of the types {labels}.",
}
CALIBRATION_TEMPLATE = """
The probabilities are calibrated by temperature scaling (Guo et al. 2017): a temperature of {temperature:.3f}, fitted on
the validation set, is folded into the weights of the last layer. Expected calibration error on the test set:
{after:.3f} ({before:.3f} without calibration)."""
# Identifiers of the hub. Any other license becomes `other`, with its name in `license_name`.
HUB_LICENSES = """apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl unlicense
openrail other unknown""".split()


def record_fingerprint(record: dict) -> str:
    """Return twelve hexadecimal digits that identify the record; studies store the same fingerprint."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def pipeline_tag(record: dict) -> str:
    """Return the hub's task name."""
    if record["kind"] == "model":
        return f"{'token' if record['problem_type'] == 'token_classification' else 'text'}-classification"
    return "fill-mask" if "loss" in record["eval"] else "sentence-similarity"


def front_matter(
    record: dict, model_id: str, default_licenses: Mapping[str, str | None], study: dict | None, is_adapter: bool
) -> str:
    """Return the card's metadata: YAML between two lines of dashes."""
    config = record["config"]
    licenses = provenance.collect_licenses(record, default_licenses)
    bases = {name: license_id for kind, name, license_id in licenses if kind == "base"}
    license_id = (default_licenses.get("model") or next(iter(bases.values()), None) or "").lower()
    is_other = bool(license_id) and license_id not in HUB_LICENSES
    encoders = [stage for stage, _ in provenance.training_stages(record) if stage["kind"] == "encoder"]
    sources = [source for stage in encoders for source in stage["config"]["corpus"]["sources"]]
    own_tags = [config["task"]["name"]] if record["kind"] == "model" else ["encoder", config["objective"]["name"]]
    metadata = ModelCardData(
        language=sorted({re.split("[-_]", tag)[0].lower() for tag in provenance.languages(record)}) or None,
        license="other" if is_other else license_id or None,
        license_name=re.sub(r"[^\w.]+", "-", license_id) if is_other else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=pipeline_tag(record),
        tags=["headstart", *own_tags],
        base_model=[base for base in bases if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base)] or None,
        datasets=sorted({source["hub"] for source in sources if source.get("hub")}) or None,
        model_name=model_name(record, model_id),
        eval_results=results.eval_results(record, pipeline_tag(record), study),
    )
    return f"---\n{metadata.to_yaml()}\n---"


def model_name(record: dict, model_id: str) -> str:
    """Return the title of the card."""
    return model_id.rpartition("/")[2] if "/" in model_id else record["run"]


def description(record: dict) -> str:
    """Describe the encoder or model in a sentence or two."""
    config = record["config"]
    if record["kind"] == "encoder":
        train = record["shards_manifest"]["train"]
        init = f"initialized from `{record['init']}` and pretrained" if record["init"] else "trained from scratch"
        return (
            f"A text encoder, {init} with the objective `{config['objective']['name']}` on the corpus"
            f" `{config['corpus']['name']}` ({train['documents']:,} documents, {train['tokens']:,} tokens)."
        )
    names = record["label_names"]
    if record["problem_type"] == "token_classification":
        names = [name[2:] for name in names if name.startswith("B-")]
    listed = ", ".join(names[:MAX_LABELS_LISTED])
    if len(names) > MAX_LABELS_LISTED:
        listed += f" and {len(names) - MAX_LABELS_LISTED:,} more"
    encoder = record["encoder_record"].get("run", config["encoder"])
    return (
        f"{TASK_DESCRIPTIONS[record['problem_type']].format(labels=listed)} It was fine-tuned from the encoder"
        f" `{encoder}` on {record['rows']['train']:,} labeled examples of the task `{config['task']['name']}`."
    )


def pipeline_call(problem_type: str, model_id: str) -> str:
    """Return the Python call of transformers' pipeline for the model `model_id`."""
    task = "token-classification" if problem_type == "token_classification" else "text-classification"
    options = {"multi_label_classification": ", top_k=None", "token_classification": ", aggregation_strategy='first'"}
    return f"pipeline('{task}', '{model_id}'{options.get(problem_type, '')})('your text')"


def usage(record: dict, model_id: str, is_adapter: bool) -> str:
    """Return blocks of Python that run as printed."""
    if is_adapter:
        part = "Token" if record["problem_type"] == "token_classification" else "Sequence"
        auto_class = f"AutoModelFor{part}Classification"
        return f"""This is a `peft` adapter; its base model is in the folder `base`:

```python
from peft import PeftModel
from transformers import AutoTokenizer, {auto_class}

base = {auto_class}.from_pretrained("{model_id}", subfolder="base")
model = PeftModel.from_pretrained(base, "{model_id}").eval()
tokenizer = AutoTokenizer.from_pretrained("{model_id}")
logits = model(**tokenizer("your text", return_tensors="pt")).logits
```"""
    if record["kind"] == "model":
        return f"""```python
from transformers import pipeline

print({pipeline_call(record["problem_type"], model_id).replace("'", '"')})
```"""
    pooled = "states[:, 0]" if record.get("pooling") == "cls" else "(states * mask).sum(1) / mask.sum(1)"
    fill_mask = f"""

Filling in masked words:

```python
from transformers import pipeline

fill = pipeline("fill-mask", "{model_id}")
print(fill("your " + fill.tokenizer.mask_token))
```"""
    return f"""Text embeddings with `sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{model_id}").encode(["your text", "another one"])
```

The same embeddings with `transformers` alone:

```python
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{model_id}"), AutoModel.from_pretrained("{model_id}")
inputs = tokenizer(["your text", "another one"], padding=True, return_tensors="pt")
states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
vectors = {pooled}
```{fill_mask if record.get("has_mlm_head") else ""}

To fine-tune it on a few labels, use `SetFitModel.from_pretrained("{model_id}")`, or, in Headstart,
`make finetune ENCODER={model_id}`."""


def evaluation_results(record: dict, study: dict | None) -> str:
    """Return the metrics next to those of the baselines, the calibration error, and the study."""
    test = record.get("metrics", {}).get("test", {})
    if record["kind"] == "model":
        rows = f"{test['n']:,} test examples"
    else:
        rows = f"{record['shards_manifest']['held_out']['documents']:,} held-out documents"
    lines = [
        f"Measured on {rows}. In parentheses: 95% confidence intervals, where they follow from the number of examples.",
        "",
        *results.metrics_table(results.collect_metrics(record), f"this {record['kind']}"),
    ]
    if record.get("calibration"):
        temperature = record["calibration"]["temperature"]
        before, after = test["ece_uncalibrated"], test["ece"]
        lines.append(CALIBRATION_TEMPLATE.format(temperature=temperature, before=before, after=after))
    if study:
        examples = f"{study['contamination']['num_measured_rows']:,} test examples of {study['task']}"
        lines += ["", study["sentence"], "", f"![{study['metric']} against the number of labels]({STUDY_PLOT})", ""]
        lines += [*results.study_table(study), ""]
        lines.append(
            f"Means over seeds with 95% confidence intervals (Student's t), on the same {examples};"
            f" encoder: {study['encoder']}."
        )
    return "\n".join(lines)


def build_model_card(
    record: dict,
    model_id: str = "PATH_OR_NAME",
    default_licenses: Mapping[str, str | None] = {},
    study: dict | None = None,
    is_adapter: bool = False,
) -> str:
    """Return the whole card, for a model that loads from `model_id`.

    default_licenses: by kind (model, corpus, labels, base), for sources without a license of their own. study: contents
    of the encoder's study.json, with its plot next to the card as STUDY_PLOT. is_adapter: whether it is an adapter.
    """
    stages = [stage for stage, _ in provenance.training_stages(record)]
    licenses = [
        f"- {'initial weights' if kind == 'base' else kind} `{source}`: {license_id or provenance.UNSPECIFIED}"
        for kind, source, license_id in provenance.collect_licenses(record, default_licenses)
    ]
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    shards = "".join(f", tokenized text `{stage['shards']}`" for stage in stages if stage.get("shards"))
    sections = {
        "Usage": usage(record, model_id, is_adapter),
        "Training data": "\n\n".join(map(provenance.training_data, stages)),
        "Training procedure": "\n".join(map(provenance.training_procedure, stages)),
        "Compute": provenance.compute_infrastructure(stages),
        "Evaluation": evaluation_results(record, study),
        "Test-set contamination": provenance.contamination(stages, study),
        "Intended use and limitations": provenance.limitations(record),
        "Licenses": "\n".join(licenses),
        "Reproduction": f"""In the folder of Headstart:

```
{provenance.reproduction_commands(record, model_id)}
```

Run `{record_fingerprint(record)}`{shards}; {versions}. `record.json` holds the complete configuration.""",
    }
    body = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    metadata = front_matter(record, model_id, default_licenses, study, is_adapter)
    return f"{metadata}\n\n# {model_name(record, model_id)}\n\n{description(record)}\n\n{body}\n"
