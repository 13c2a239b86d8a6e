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

from publish import account, results
from publish.results import CLASSES, title  # noqa: F401

AT_MOST = 30  # labels that are named
PLOT = "label-efficiency.png"
DOES = {
    "class": """Classifies text into {labels}""",
    "labels": """Says which of these labels a text has, any number of them: {labels}. `config.json` holds a threshold for
each label, fitted on the validation rows (its `thresholds`): from that probability on the label is said""",
    "number": """Says the number `{labels}` of a text""",
    "tags": """Finds the entities in a text, by tags of its words: {labels}"""}
CALIBRATED = """
Its probabilities are calibrated: the logits' temperature, {temperature:.3f}, was fitted on the validation rows (Guo et al.
2017) and is already part of the last layer's weights. Expected calibration error on the test rows: {after:.3f},
{before:.3f} without it."""
# As the hub calls them; another one is told as `other`, with its name.
HUB_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0",
    "agpl-3.0", "mpl-2.0", "odc-by", "odbl", "unlicense", "openrail", "other", "unknown")


def fingerprint(record: dict) -> str:
    """Twelve hexadecimal digits of the whole record: the run's name for machines, as studies write it too."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def pipeline_of(record: dict) -> str:
    """The task the hub files it under."""
    if record["kind"] == "model":
        return "token-classification" if record.get("learns") == "tags" else "text-classification"
    return "fill-mask" if "loss" in record["evaluation"] else "sentence-similarity"


def front(record: dict, name: str, given: Mapping[str, str | None], study: dict | None, adapter: bool) -> str:
    """The metadata: YAML between two lines of dashes."""
    model, config = record["kind"] == "model", record["config"]
    bases = {base: licence for kind, base, licence in account.licences(record, given) if kind == "base"}
    licence = (given.get("model") or next(iter(bases.values()), None) or "").lower()
    known = licence if licence in HUB_LICENCES else "other"
    corpora = [source for stage, _ in account.stages(record) if stage["kind"] == "encoder"
               for source in stage["config"]["corpus"]["sources"]]
    metadata = ModelCardData(
        language=sorted({re.split("[-_]", tag)[0].lower() for tag in account.languages(record)}) or None,
        license=known if licence else None,
        license_name=re.sub(r"[^\w.]+", "-", licence) if licence and known == "other" else None,
        library_name="peft" if adapter else "transformers", pipeline_tag=pipeline_of(record),
        tags=["headstart", *([config["task"]["name"]] if model else ["encoder", config["objective"]["name"]])],
        base_model=[base for base in bases if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base)] or None,
        datasets=sorted({source["hub"] for source in corpora if source.get("hub")}) or None,
        model_name=heading(record, name), eval_results=results.index(record, pipeline_of(record), study))
    return f"---\n{metadata.to_yaml()}\n---"


def heading(record: dict, name: str) -> str:
    """What the card calls it."""
    return name.rpartition("/")[2] if "/" in name else record["run"]


def what(record: dict) -> str:
    """What it is, in a sentence or two."""
    config = record["config"]
    if record["kind"] == "encoder":
        trained = f"continued from `{record['init']}`" if record["init"] else "trained from nothing"
        train = record["documents"]["train"]
        return (f"An encoder {trained} on the corpus `{config['corpus']['name']}` ({train['documents']:,} documents,"
                f" {train['tokens']:,} tokens) by `{config['objective']['name']}`.")
    encoder = record["encoder_record"].get("run", config["encoder"])  # one of ours is told of below
    names, learns = record["labels"], record.get("learns", "class")
    names = [name[2:] for name in names if name.startswith("B-")] if learns == "tags" else names
    listed = ", ".join(names[:AT_MOST]) + f" and {len(names) - AT_MOST:,} more" * (len(names) > AT_MOST)
    return (f"{DOES[learns].format(labels=listed)}: the encoder `{encoder}` fine-tuned on"
            f" {record['rows']['train']:,} labels of the task `{config['task']['name']}`.")


def call(learns: str, where: str) -> str:
    """How plain transformers asks the model at `where`, in Python."""
    task = "token-classification" if learns == "tags" else "text-classification"
    more = {"labels": ", top_k=None", "tags": ", aggregation_strategy='first'"}.get(learns, "")
    return f"pipeline('{task}', '{where}'{more})('your text')"


def usage(record: dict, name: str, adapter: bool) -> str:
    """Blocks of Python that run as they stand."""
    learns = record.get("learns", "class")
    if adapter:
        kind = f"AutoModelFor{'Token' if learns == 'tags' else 'Sequence'}Classification"
        return f"""An adapter for `peft`; what it was trained beside is in the folder `base`:

```python
from peft import PeftModel
from transformers import AutoTokenizer, {kind}

base = {kind}.from_pretrained("{name}", subfolder="base")
model = PeftModel.from_pretrained(base, "{name}").eval()
tokenizer = AutoTokenizer.from_pretrained("{name}")
logits = model(**tokenizer("your text", return_tensors="pt")).logits
```"""
    if record["kind"] == "model":
        return f"""```python
from transformers import pipeline

print({call(learns, name).replace("'", '"')})
```"""
    pooled = "states[:, 0]" if record.get("pooling") == "cls" else "(states * mask).sum(1) / mask.sum(1)"
    masked = f"""

What stands in a gap:

```python
from transformers import pipeline

fill = pipeline("fill-mask", "{name}")
print(fill("your " + fill.tokenizer.mask_token))
```""" if record.get("with_head") else ""
    return f"""Vectors of texts, by `sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode(["your text", "another one"])
```

The same by `transformers` alone:

```python
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{name}"), AutoModel.from_pretrained("{name}")
inputs = tokenizer(["your text", "another one"], padding=True, return_tensors="pt")
states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
vectors = {pooled}
```{masked}

With few labels: `SetFitModel.from_pretrained("{name}")`, or `make finetune ENCODER={name}` in Headstart."""


def measured(record: dict, study: dict | None) -> str:
    """The figures beside their baselines, and the study."""
    model = record["kind"] == "model"
    rows = record["figures"]["test"]["n"] if model else record["documents"]["held_out"]["documents"]
    lines = [f"On {rows:,} {'test rows' if model else 'held-out documents'}, with 95 % intervals where the number of rows"
             " tells them.", "", *results.table(results.figures(record), f"this {record['kind']}")]
    if record.get("calibration"):
        test = record["figures"]["test"]
        lines.append(CALIBRATED.format(temperature=record["calibration"]["temperature"], after=test["ece"],
                                       before=test["ece_uncalibrated"]))
    if study:
        lines += ["", study["sentence"], "", f"![{study['figure']} against the number of labels]({PLOT})", "",
                  *results.of_study(study), "", "Means with 95 % intervals over seeds (Student's t), on the same"
                  f" {study['contamination']['measured']:,} test rows of {study['task']}; encoder: {study['encoder']}."]
    return "\n".join(lines)


def card(record: dict, name: str = "PATH_OR_NAME", given: Mapping[str, str | None] = {}, study: dict | None = None,
         adapter: bool = False) -> str:
    """The whole card.

    name: where it will be found. given: licences by kind (model, corpus, labels, base) for what does not name its own.
    study: study.json of the encoder, whose plot lies beside as PLOT. adapter: whether it is of peft's adapter alone.
    """
    every = [stage for stage, _ in account.stages(record)]
    licensed = [f"- {'weights it began with' if kind == 'base' else kind} {source}: {licence or account.NOT_NAMED}"
                for kind, source, licence in account.licences(record, given)]
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    texts = "".join(f", text `{stage['shards']}`" for stage in every if stage.get("shards"))
    sections = {
        "How to use it": usage(record, name, adapter),
        "What it learned from": "\n\n".join(map(account.text, every)),
        "How it was trained": "\n".join(map(account.training, every)),
        "What it took": account.compute(every),
        "Results": measured(record, study),
        "Test text in what it learned from": account.seen(every, study),
        "What it is for, and its limits": account.limits(record),
        "Licences": "\n".join(licensed),
        "To repeat it": f"```\n{account.commands(record, name)}\n```\n\nRun `{fingerprint(record)}`{texts}; {versions}."
                        " `record.json` holds the whole configuration."}
    body = "\n\n".join(f"## {section}\n\n{content}" for section, content in sections.items())
    return f"{front(record, name, given, study, adapter)}\n\n# {heading(record, name)}\n\n{what(record)}\n\n{body}\n"
