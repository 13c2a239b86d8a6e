"""How what is published came about, section by section of its card: text, training, compute, limits, licences."""

from __future__ import annotations

from collections.abc import Mapping

UNSPECIFIED = "not named"
# Of a training's settings: what does not change what is learned, or has already been resolved into what is told.
OMITTED_SETTINGS = (
    "log_every",
    "eval_every",
    "save_every",
    "keep",
    "micro_batch",
    "steps",
    "epochs",
    "min_steps",
    "max_steps",
    "lr_fraction",
    "unrecorded_lr",
    "name",
)
TASK_LIMITATIONS = {
    "single_label_classification": "It answers with one of its labels whatever the text is about, also where none applies.",
    "multi_label_classification": "It knows no label but those above.",
    "regression": "Its number means what the labels it learned from meant, and little outside their range.",
    "token_classification": "It knows no kind of entity but those above, and text unlike that of the task is harder for it.",
}


def training_stages(record: dict, key_path: str = "") -> list[tuple[dict, str]]:
    """(record, where it stands inside this one) of every training that led here, the first one first."""
    key = next((key for key in ("encoder_record", "init_record") if record.get(key)), None)
    return [*(training_stages(record[key], f"{key_path}['{key}']") if key else []), (record, key_path)]


def collect_licenses(
    record: dict, default_licenses: Mapping[str, str | None] = {}
) -> list[tuple[str, str, str | None]]:
    """(kind, name, licence) of all the text, labels and weights that this came from; kind: corpus, labels or base.

    default_licenses: licences by kind, for what does not name its own. A record older than that names no source at all.
    """
    found: dict[tuple[str, str], str | None] = {}
    for stage, _ in training_stages(record):
        told, config = stage.get("licenses", {}), stage["config"]
        if stage["kind"] == "encoder":
            learned = {"corpus": {config["corpus"]["name"]: None}}
            outside = None if stage["init_record"] else stage["init"]
        else:
            learned = {"labels": {config["task"]["name"]: None}}
            outside = None if stage["encoder_record"] else config["encoder"]
        found |= {
            (kind, source): licence
            for kind in ("corpus", "labels")
            for source, licence in told.get(kind, learned.get(kind, {})).items()
        }
        if base := told.get("base", outside and {"name": outside, "license": None}):
            found["base", base["name"]] = base["license"]
    return [(kind, name, licence or default_licenses.get(kind)) for (kind, name), licence in found.items()]


def languages(record: dict) -> list[str]:
    """Tags of the languages that the sources say their text is in."""
    return sorted({tag for stage, _ in training_stages(record) for tag in stage.get("text", {}).get("languages", [])})


def training_data(stage: dict) -> str:
    """What a stage learned from: counts, and what was removed and why."""
    config = stage["config"]
    if stage["kind"] == "model":
        rows = ", ".join(f"{count:,} {split}" for split, count in stage["rows"].items())
        best = "chose the weights that were kept" if config["train"]["best"] else "were not used"
        unlabelled = config.get("selftrain", {}).get("corpus") if config.get("selftrain", {}).get("rounds") else None
        return (
            f"**Labels of `{config['task']['name']}`**: {rows} rows. Validation labels {best}."
            + f" Besides, sentences of `{unlabelled}`, labelled by the model itself." * bool(unlabelled)
        )
    train, told = stage["documents"]["train"], stage.get("text", {"steps": [], "notes": []})
    lines = [
        f"**Text of `{config['corpus']['name']}`**: {train['documents']:,} documents, {train['tokens']:,} tokens;"
        f" {stage['documents']['held_out']['documents']:,} documents more were held out.",
        "",
    ]
    if told["steps"]:
        changed = [after for before, after in zip([[], *told["steps"]], told["steps"]) if before[1:] != after[1:]]
        lines += [
            "| | documents | words | tokens |",
            "|---|--:|--:|--:|",
            *(f"| {step} | " + " | ".join(f"{count:,}" for count in counts) + " |" for step, *counts in changed),
            "",
        ]
    # Test text that was found has a section of its own.
    return "\n".join(lines + [f"- {note}" for note in told["notes"] if " test text of " not in note]).rstrip()


def training_procedure(stage: dict) -> str:
    """Objective or head, and schedule."""
    config, part = stage["config"], "objective" if stage["kind"] == "encoder" else "head"
    steps = stage.get("steps", config["train"]["steps"])
    schedule = {"steps": steps, **config["train"], "dropout": config["dropout"], "seed": config["seed"]}
    told = [
        ", ".join(
            f"{key} {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in section.items()
            if key not in OMITTED_SETTINGS and not isinstance(value, dict | list | None)
        )
        for section in (config[part], schedule)
    ]
    return (
        f"- `{stage['run']}`, {part} `{config[part]['name']}`: {told[0]}\n"
        f"- `{stage['run']}`, {steps:,} steps: {told[1]}"
    )


def compute_infrastructure(stages: list[dict]) -> str:
    """Time, hardware and energy of each stage."""
    lines, energy, powers = ["| run | steps | tokens | time | on | energy |", "|---|--:|--:|--:|---|--:|"], 0.0, {}
    for stage in stages:
        hardware, seconds = stage.get("hardware"), stage.get("seconds", 0)
        machine, spent = "not recorded", ""
        if hardware:
            hours, watts = seconds / 3600, hardware["estimated_watts"]
            energy, spent = energy + hours * watts / 1000, f"{hours * watts / 1000:.2g} kWh"
            powers[f"{watts} W"] = None
            gpus = f", {len(hardware['gpus'])} x {hardware['gpus'][0]}" if hardware["gpus"] else ""
            machine = f"{hardware['cpu_cores']} cores of {hardware['cpu']}{gpus}, {stage['precision']}"
        steps, tokens = (f"{stage[key]:,}" if key in stage else "" for key in ("steps", "tokens"))
        lines.append(
            f"| `{stage['run']}` | {steps} | {tokens} | {seconds // 60:.0f} min {seconds % 60:.0f} s | {machine}"
            f" | {spent} |"
        )
    told = (
        f"Energy is an estimate, {energy:.2g} kWh in all: time of training x {', '.join(powers)}. The power is assumed,"
        " not measured: 10 W a core, and of a GPU what its maker says it draws at most."
    )
    return "\n".join([*lines, *(["", told] if powers else [])])


def contamination(stages: list[dict], study: dict | None) -> str:
    """Test text that was found in what was learned from."""
    found = []
    for stage in stages:
        if stage["kind"] == "model":
            continue
        corpus, looked_for = stage["config"]["corpus"]["name"], stage.get("text", {}).get("contamination", [])
        found += [
            f"{task['documents']:,} documents of `{corpus}` hold test text of {task['name']}"
            f" ({task['full_matches']:,} of its {task['num_test_texts']:,} test texts whole, {task['partial_matches']:,} in"
            " part)" + (f"; they were {'removed' if task['removed'] else 'kept'}." if task["documents"] else ".")
            for task in looked_for
        ]
        if not looked_for:
            found.append(f"`{corpus}` was not searched for test text when it was made.")
    if study:
        told = study["contamination"]
        labels, rows = told["labels"], told["test_rows"]
        found.append(
            f"{labels['exact']:,} of the {rows:,} test rows of {study['task']} also stand in its training rows,"
            f" {labels['near']:,} nearly; {told['measured']:,} were measured in the study."
        )
        found += [
            f"{each['test']['exact']:,} of them stand in `{each['corpus']}`, {each['test']['near']:,} nearly."
            for each in told["corpora"]
            if "test" in each
        ]
    return "\n".join(f"- {line}" for line in found) or "- What its encoder was trained on is not known here."


def limitations(record: dict) -> str:
    """What it is for and what it is not."""
    model = record["kind"] == "model"
    longest = record["config"]["max_length"] if model else record["max_length"]
    use = (
        "For text like that of its task."
        if model
        else "For vectors of texts, to compare, search and group them by, and to be taught a task with few labels."
    )
    return "\n".join(
        [
            f"- {use} Not for decisions about people that nobody looks at.",
            f"- It was trained on texts of up to {longest:,} tokens; of longer ones it was shown parts.",
            f"- Languages of its text, as far as the sources say: {', '.join(languages(record)) or UNSPECIFIED}.",
            *([f"- {TASK_LIMITATIONS[record.get('problem_type', 'single_label_classification')]}"] if model else []),
            "- What its text and labels favour or leave out, it favours or leaves out. The figures above are of the rows they"
            " name, and promise nothing for other text.",
        ]
    )


def reproduction_commands(record: dict, model_id: str) -> str:
    """What repeats all of it in Headstart's folder, from record.json."""
    lines = [f"hf download {model_id} record.json --local-dir ."]
    for number, (stage, path) in enumerate(training_stages(record), 1):
        read = f"json.load(open('record.json')){path}['config']"
        lines += [
            f"python -c \"import json; json.dump({read}, open('{number}.yaml', 'w'), ensure_ascii=False)\"",
            f"python -m {'pretrain' if stage['kind'] == 'encoder' else 'finetune'} {number}.yaml",
        ]
    return "\n".join(lines)
