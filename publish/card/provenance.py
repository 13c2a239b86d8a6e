"""Provenance of what is published, for the sections of its card: data, training, compute, limitations, licenses."""

from collections.abc import Mapping

from engine.html import code_span

UNSPECIFIED = "not specified"
# Settings that do not change the result, or that the card gives in resolved form.
OMITTED_SETTINGS = """log_every eval_every save_every keep_checkpoints micro_batch_size steps epochs min_steps max_steps
lr_fraction default_pretrain_lr dry_run name""".split()


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
            unlicensed = {"corpus": {config.get("corpus", {}).get("name", stage["run"]): None}}
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


def describe_stage(stage: dict) -> dict[str, object]:
    """Return what a stage's sections show: its settings, and the counts and notes of the text it was trained on."""
    config, part = stage["config"], "objective" if stage["kind"] == "encoder" else "head"
    options, schedule = (
        ", ".join(
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in section.items()
            if key not in OMITTED_SETTINGS and not isinstance(value, dict | list | None)
        )
        for section in (config[part], {**config["train"], "dropout": config["dropout"], "seed": config["seed"]})
    )
    text = {"counts_by_step": [], "notes": [], "contamination": []} | stage.get("corpus_summary", {})
    rows = text["counts_by_step"]
    changed = [after for before, after in zip([[], *rows], rows, strict=False) if before[1:] != after[1:]]
    return {
        "examples": [f"{count:,} {split}" for split, count in stage.get("rows", {}).items()],
        "part": part,
        "options": options,
        "schedule": schedule,
        "changes": [
            (change["step"], ", ".join(f"{key}={new} instead of {old}" for key, (old, new) in change["keys"].items()))
            for change in stage.get("changes", [])
        ],
        "counts": [[step, *(f"{count:,}" for count in counts)] for step, *counts in changed],
        # Contamination has a section of its own.
        "notes": [note for note in text["notes"] if " test text of " not in note],
        "contamination": text["contamination"],
    }


def compute_infrastructure(stages: list[dict]) -> dict[str, object]:
    """Return a row for each stage with its time, hardware and energy, the total energy in kWh, and the powers in W."""
    rows, energy = [], 0.0
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
        rows.append([code_span(stage["run"]), steps, tokens, duration, machine, used])
    return {"rows": rows, "energy": energy, "powers": list(powers)}


def reproduction_commands(record: dict, model_id: str) -> list[str]:
    """Return the commands that repeat every training stage from record.json, in Headstart's folder."""
    lines = [f"hf download {model_id} record.json --local-dir ."]
    for number, (stage, key_path) in enumerate(training_stages(record), 1):
        config = f"json.load(open('record.json')){key_path}['config']"
        lines += [
            f"python -c \"import json; json.dump({config}, open('{number}.yaml', 'w'), ensure_ascii=False)\"",
            f"python -m {'pretrain' if stage['kind'] == 'encoder' else 'finetune'} {number}.yaml",
        ]
    return lines
