"""Provenance of what is published, for the sections of its card: data, training, compute, limitations, licenses."""

from collections.abc import Mapping

UNSPECIFIED = "not specified"
# Settings that do not change the result, or that the card gives in resolved form.
OMITTED_SETTINGS = """log_every eval_every save_every keep_checkpoints micro_batch_size steps epochs min_steps max_steps
lr_fraction default_pretrain_lr dry_run name""".split()
TASK_LIMITATIONS = {
    "single_label_classification": "It always predicts one of its labels, even for texts to which none applies.",
    "multi_label_classification": "It predicts only the labels listed above.",
    "regression": "Its predictions are on the scale of the training labels and unreliable outside their range.",
    "token_classification": "It finds only the entity types listed above, and is weaker on text unlike the task's.",
}


def training_stages(record: dict, key_path: str = "") -> list[tuple[dict, str]]:
    """Return (record, its path of subscripts inside this one) of every training stage, the first stage first."""
    key = next((key for key in ("encoder_record", "init_record") if record.get(key)), None)
    return [*(training_stages(record[key], f"{key_path}['{key}']") if key else []), (record, key_path)]


def collect_licenses(
    record: dict, default_licenses: Mapping[str, str | None] = {}
) -> list[tuple[str, str, str | None]]:
    """Return (kind, name, license) of all text, labels and initial weights; kind: corpus, labels or base.

    default_licenses: licenses by kind, for sources without one of their own.
    """
    found: dict[tuple[str, str], str | None] = {}
    for stage, _ in training_stages(record):
        licenses, config = stage.get("licenses", {}), stage["config"]
        if stage["kind"] == "encoder":
            unlicensed = {"corpus": {config["corpus"]["name"]: None}}
            initial = None if stage["init_record"] else stage["init"]
        else:
            unlicensed = {"labels": {config["task"]["name"]: None}}
            initial = None if stage["encoder_record"] else config["encoder"]
        for kind in ("corpus", "labels"):
            sources = licenses.get(kind, unlicensed.get(kind, {}))
            found |= {(kind, source): license_id for source, license_id in sources.items()}
        if base := licenses.get("base", initial and {"name": initial, "license": None}):
            found["base", base["name"]] = base["license"]
    return [(kind, name, license_id or default_licenses.get(kind)) for (kind, name), license_id in found.items()]


def languages(record: dict) -> list[str]:
    """Return the language tags that the sources of the training text give."""
    summaries = [stage.get("corpus_summary", {}) for stage, _ in training_stages(record)]
    return sorted({tag for summary in summaries for tag in summary.get("languages", [])})


def training_data(stage: dict) -> str:
    """Describe a stage's training data: its size, and what was removed and why."""
    config = stage["config"]
    if stage["kind"] == "model":
        examples = ", ".join(f"{count:,} {split}" for split, count in stage["rows"].items())
        selection = "used for checkpoint selection" if config["train"]["load_best"] else "not used"
        line = f"**Labels: `{config['task']['name']}`.** {examples} examples. Validation labels were {selection}."
        self_training = config.get("selftrain", {})
        if self_training.get("rounds") and self_training.get("corpus"):
            line += (
                f" Self-training added sentences of `{self_training['corpus']}`, pseudo-labeled by the model itself."
            )
        return line
    train, held_out = stage["shards_manifest"]["train"], stage["shards_manifest"]["held_out"]
    text = stage.get("corpus_summary", {"counts_by_step": [], "notes": []})
    lines = [
        f"**Text: `{config['corpus']['name']}`.** {train['documents']:,} documents with {train['tokens']:,} tokens;"
        f" {held_out['documents']:,} more documents were held out for evaluation.",
        "",
    ]
    if rows := text["counts_by_step"]:
        changed = [after for before, after in zip([[], *rows], rows, strict=False) if before[1:] != after[1:]]
        lines += ["| | documents | words | tokens |", "|---|--:|--:|--:|"]
        lines += [f"| {step} | " + " | ".join(f"{count:,}" for count in counts) + " |" for step, *counts in changed]
        lines.append("")
    # Contamination has a section of its own.
    return "\n".join(lines + [f"- {note}" for note in text["notes"] if " test text of " not in note]).rstrip()


def training_procedure(stage: dict) -> str:
    """List the settings of the objective or head, and of the training."""
    config, part = stage["config"], "objective" if stage["kind"] == "encoder" else "head"
    steps = stage.get("steps", config["train"]["steps"])
    options, schedule = (
        ", ".join(
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in section.items()
            if key not in OMITTED_SETTINGS and not isinstance(value, dict | list | None)
        )
        for section in (config[part], {**config["train"], "dropout": config["dropout"], "seed": config["seed"]})
    )
    options = f" with {options}" if options else ""
    return (
        f"- `{stage['run']}`: {part} `{config[part]['name']}`{options}\n"
        f"- `{stage['run']}`: {steps:,} training steps with {schedule}"
    )


def compute_infrastructure(stages: list[dict]) -> str:
    """Return a table of the time, hardware and energy of each stage."""
    lines, energy = ["| run | steps | tokens | time | hardware | energy |", "|---|--:|--:|--:|---|--:|"], 0.0
    powers: dict[str, None] = {}
    for stage in stages:
        hardware, seconds = stage.get("hardware"), stage.get("seconds", 0)
        machine, used = "not recorded", ""
        if hardware:
            kwh = seconds / 3600 * hardware["estimated_watts"] / 1000
            energy, used = energy + kwh, f"{kwh:.2g} kWh"
            powers[f"{hardware['estimated_watts']} W"] = None
            gpus = f", {len(hardware['gpus'])} x {hardware['gpus'][0]}" if hardware["gpus"] else ""
            machine = f"{hardware['cpu_cores']} cores of {hardware['cpu']}{gpus}, {stage['precision']}"
        steps, tokens = (f"{stage[key]:,}" if key in stage else "" for key in ("steps", "tokens"))
        duration = f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
        lines.append(f"| `{stage['run']}` | {steps} | {tokens} | {duration} | {machine} | {used} |")
    if powers:
        lines += [
            "",
            f"Estimated energy: {energy:.2g} kWh in total, training time x {', '.join(powers)}. Power was not measured;"
            " the estimate assumes 10 W per CPU core and the rated maximum power of each GPU.",
        ]
    return "\n".join(lines)


def contamination(stages: list[dict], study: dict | None) -> str:
    """List the test texts that were found in the training data."""
    lines = []
    for stage in stages:
        if stage["kind"] == "model":
            continue
        corpus, tasks = stage["config"]["corpus"]["name"], stage.get("corpus_summary", {}).get("contamination", [])
        for task in tasks:
            action = f" These documents were {'removed' if task['removed'] else 'kept'}." if task["documents"] else ""
            lines.append(
                f"{task['documents']:,} documents of `{corpus}` contain test text of {task['name']}:"
                f" {task['full_matches']:,} of its {task['num_test_texts']:,} test texts in full,"
                f" {task['partial_matches']:,} in part.{action}"
            )
        if not tasks:
            lines.append(f"`{corpus}` was not searched for test text when it was built.")
    if study:
        counts, task = study["contamination"], study["task"]
        overlap = counts["training_overlap"]
        lines.append(
            f"{overlap['exact']:,} of the {counts['num_test_rows']:,} test examples of {task} also occur in its"
            f" training set, {overlap['near']:,} more as near-duplicates; the study measures on"
            f" {counts['num_measured_rows']:,} test examples."
        )
        lines += [
            f"{corpus['test']['exact']:,} of the test examples of {task} occur in `{corpus['corpus']}`,"
            f" {corpus['test']['near']:,} more as near-duplicates."
            for corpus in counts["corpora"]
            if "test" in corpus
        ]
    return "\n".join(f"- {line}" for line in lines) or "- The pretraining data of the encoder is unknown."


def limitations(record: dict) -> str:
    """List intended uses, limitations and biases."""
    if record["kind"] == "model":
        max_length, specific = record["config"]["max_length"], [f"- {TASK_LIMITATIONS[record['problem_type']]}"]
        use = "Intended for text similar to that of its task."
    else:
        max_length, specific = record["max_length"], []
        use = "Intended for text embeddings (semantic search, clustering) and for fine-tuning on few labels."
    tags = ", ".join(languages(record)) or UNSPECIFIED
    lines = [
        f"- {use} Not intended for decisions about people without human review.",
        f"- It was trained on texts of up to {max_length:,} tokens, and on parts of longer ones.",
        f"- Languages of the training text, according to its sources: {tags}.",
        *specific,
        "- It reproduces the biases and gaps of its training text and labels. The metrics above hold for the examples"
        " they were measured on and may be lower on other text.",
    ]
    return "\n".join(lines)


def reproduction_commands(record: dict, model_id: str) -> str:
    """Return the commands that repeat every training stage from record.json, in Headstart's folder."""
    lines = [f"hf download {model_id} record.json --local-dir ."]
    for number, (stage, key_path) in enumerate(training_stages(record), 1):
        config = f"json.load(open('record.json')){key_path}['config']"
        lines += [
            f"python -c \"import json; json.dump({config}, open('{number}.yaml', 'w'), ensure_ascii=False)\"",
            f"python -m {'pretrain' if stage['kind'] == 'encoder' else 'finetune'} {number}.yaml",
        ]
    return "\n".join(lines)
