"""The card, README.md of what is given away: one template for encoders, models and adapters, made from the run's record.

card(record)                                     as it lies in the run's folder
card(record, "user/name", licences, study)       as it is published
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from huggingface_hub import ModelCardData

from publish.card import provenance, results
from publish.card.results import DEFAULT_METRICS, metric_title  # noqa: F401

MAX_LABELS_LISTED = 30  # labels that are named
STUDY_PLOT = "label-efficiency.png"
TASK_DESCRIPTIONS = {
    "single_label_classification": """Classifies text into {labels}""",
    "multi_label_classification": """Says which of these labels a text has, any number of them: {labels}. `config.json` holds a threshold for
each label, fitted on the validation rows (its `thresholds`): from that probability on the label is said""",
    "regression": """Says the number `{labels}` of a text""",
    "token_classification": """Finds the entities in a text, by tags of its words: {labels}""",
}
CALIBRATION_TEMPLATE = """
Its probabilities are calibrated: the logits' temperature, {temperature:.3f}, was fitted on the validation rows (Guo et al.
2017) and is already part of the last layer's weights. Expected calibration error on the test rows: {after:.3f},
{before:.3f} without it."""
# As the hub calls them; another one is told as `other`, with its name.
HUB_LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
    "mpl-2.0",
    "odc-by",
    "odbl",
    "unlicense",
    "openrail",
    "other",
    "unknown",
)


def record_fingerprint(record: dict) -> str:
    """Twelve hexadecimal digits of the whole record: the run's name for machines, as studies write it too."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def pipeline_tag(record: dict) -> str:
    """The task the hub files it under."""
    if record["kind"] == "model":
        return "token-classification" if record.get("problem_type") == "token_classification" else "text-classification"
    return "fill-mask" if "loss" in record["eval"] else "sentence-similarity"


def front_matter(
    record: dict, model_id: str, default_licenses: Mapping[str, str | None], study: dict | None, is_adapter: bool
) -> str:
    """The metadata: YAML between two lines of dashes."""
    model, config = record["kind"] == "model", record["config"]
    bases = {
        base: licence for kind, base, licence in provenance.collect_licenses(record, default_licenses) if kind == "base"
    }
    licence = (default_licenses.get("model") or next(iter(bases.values()), None) or "").lower()
    known = licence if licence in HUB_LICENSES else "other"
    corpora = [
        source
        for stage, _ in provenance.training_stages(record)
        if stage["kind"] == "encoder"
        for source in stage["config"]["corpus"]["sources"]
    ]
    metadata = ModelCardData(
        language=sorted({re.split("[-_]", tag)[0].lower() for tag in provenance.languages(record)}) or None,
        license=known if licence else None,
        license_name=re.sub(r"[^\w.]+", "-", licence) if licence and known == "other" else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=pipeline_tag(record),
        tags=["headstart", *([config["task"]["name"]] if model else ["encoder", config["objective"]["name"]])],
        base_model=[base for base in bases if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base)] or None,
        datasets=sorted({source["hub"] for source in corpora if source.get("hub")}) or None,
        model_name=model_name(record, model_id),
        eval_results=results.eval_results(record, pipeline_tag(record), study),
    )
    return f"---\n{metadata.to_yaml()}\n---"


def model_name(record: dict, model_id: str) -> str:
    """What the card calls it."""
    return model_id.rpartition("/")[2] if "/" in model_id else record["run"]


def description(record: dict) -> str:
    """What it is, in a sentence or two."""
    config = record["config"]
    if record["kind"] == "encoder":
        trained = f"continued from `{record['init']}`" if record["init"] else "trained from nothing"
        train = record["documents"]["train"]
        return (
            f"An encoder {trained} on the corpus `{config['corpus']['name']}` ({train['documents']:,} documents,"
            f" {train['tokens']:,} tokens) by `{config['objective']['name']}`."
        )
    encoder = record["encoder_record"].get("run", config["encoder"])  # one of ours is told of below
    names, learns = record["labels"], record.get("problem_type", "single_label_classification")
    names = [name[2:] for name in names if name.startswith("B-")] if learns == "token_classification" else names
    listed = ", ".join(names[:MAX_LABELS_LISTED]) + f" and {len(names) - MAX_LABELS_LISTED:,} more" * (
        len(names) > MAX_LABELS_LISTED
    )
    return (
        f"{TASK_DESCRIPTIONS[learns].format(labels=listed)}: the encoder `{encoder}` fine-tuned on"
        f" {record['rows']['train']:,} labels of the task `{config['task']['name']}`."
    )


def pipeline_call(problem_type: str, model_id: str) -> str:
    """How plain transformers asks the model at `model_id`, in Python."""
    task = "token-classification" if problem_type == "token_classification" else "text-classification"
    more = {"multi_label_classification": ", top_k=None", "token_classification": ", aggregation_strategy='first'"}.get(
        problem_type, ""
    )
    return f"pipeline('{task}', '{model_id}'{more})('your text')"


def usage(record: dict, model_id: str, is_adapter: bool) -> str:
    """Blocks of Python that run as they stand."""
    learns = record.get("problem_type", "single_label_classification")
    if is_adapter:
        kind = f"AutoModelFor{'Token' if learns == 'token_classification' else 'Sequence'}Classification"
        return f"""An adapter for `peft`; what it was trained beside is in the folder `base`:

```python
from peft import PeftModel
from transformers import AutoTokenizer, {kind}

base = {kind}.from_pretrained("{model_id}", subfolder="base")
model = PeftModel.from_pretrained(base, "{model_id}").eval()
tokenizer = AutoTokenizer.from_pretrained("{model_id}")
logits = model(**tokenizer("your text", return_tensors="pt")).logits
```"""
    if record["kind"] == "model":
        return f"""```python
from transformers import pipeline

print({pipeline_call(learns, model_id).replace("'", '"')})
```"""
    pooled = "states[:, 0]" if record.get("pooling") == "cls" else "(states * mask).sum(1) / mask.sum(1)"
    masked = (
        f"""

What stands in a gap:

```python
from transformers import pipeline

fill = pipeline("fill-mask", "{model_id}")
print(fill("your " + fill.tokenizer.mask_token))
```"""
        if record.get("has_mlm_head")
        else ""
    )
    return f"""Vectors of texts, by `sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{model_id}").encode(["your text", "another one"])
```

The same by `transformers` alone:

```python
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{model_id}"), AutoModel.from_pretrained("{model_id}")
inputs = tokenizer(["your text", "another one"], padding=True, return_tensors="pt")
states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
vectors = {pooled}
```{masked}

With few labels: `SetFitModel.from_pretrained("{model_id}")`, or `make finetune ENCODER={model_id}` in Headstart."""


def evaluation_results(record: dict, study: dict | None) -> str:
    """The figures beside their baselines, and the study."""
    model = record["kind"] == "model"
    rows = record["metrics"]["test"]["n"] if model else record["documents"]["held_out"]["documents"]
    lines = [
        f"On {rows:,} {'test rows' if model else 'held-out documents'}, with 95 % intervals where the number of rows"
        " tells them.",
        "",
        *results.metrics_table(results.collect_metrics(record), f"this {record['kind']}"),
    ]
    if record.get("calibration"):
        test = record["metrics"]["test"]
        lines.append(
            CALIBRATION_TEMPLATE.format(
                temperature=record["calibration"]["temperature"], after=test["ece"], before=test["ece_uncalibrated"]
            )
        )
    if study:
        lines += [
            "",
            study["sentence"],
            "",
            f"![{study['figure']} against the number of labels]({STUDY_PLOT})",
            "",
            *results.study_table(study),
            "",
            "Means with 95 % intervals over seeds (Student's t), on the same"
            f" {study['contamination']['measured']:,} test rows of {study['task']}; encoder: {study['encoder']}.",
        ]
    return "\n".join(lines)


def build_model_card(
    record: dict,
    model_id: str = "PATH_OR_NAME",
    default_licenses: Mapping[str, str | None] = {},
    study: dict | None = None,
    is_adapter: bool = False,
) -> str:
    """The whole card.

    model_id: where it will be found. default_licenses: licences by kind (model, corpus, labels, base) for what does not name its own.
    study: study.json of the encoder, whose plot lies beside as PLOT. is_adapter: whether it is of peft's adapter alone.
    """
    every = [stage for stage, _ in provenance.training_stages(record)]
    licensed = [
        f"- {'weights it began with' if kind == 'base' else kind} {source}: {licence or provenance.UNSPECIFIED}"
        for kind, source, licence in provenance.collect_licenses(record, default_licenses)
    ]
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    texts = "".join(f", text `{stage['shards']}`" for stage in every if stage.get("shards"))
    sections = {
        "How to use it": usage(record, model_id, is_adapter),
        "What it learned from": "\n\n".join(map(provenance.training_data, every)),
        "How it was trained": "\n".join(map(provenance.training_procedure, every)),
        "What it took": provenance.compute_infrastructure(every),
        "Results": evaluation_results(record, study),
        "Test text in what it learned from": provenance.contamination(every, study),
        "What it is for, and its limits": provenance.limitations(record),
        "Licences": "\n".join(licensed),
        "To repeat it": f"```\n{provenance.reproduction_commands(record, model_id)}\n```\n\nRun `{record_fingerprint(record)}`{texts}; {versions}."
        " `record.json` holds the whole configuration.",
    }
    body = "\n\n".join(f"## {section}\n\n{content}" for section, content in sections.items())
    return f"{front_matter(record, model_id, default_licenses, study, is_adapter)}\n\n# {model_name(record, model_id)}\n\n{description(record)}\n\n{body}\n"
