"""How what is published came about, section by section of its card: text, training, compute, limits, licences."""

from __future__ import annotations

from collections.abc import Mapping

NOT_NAMED = "not named"
# Of a training's settings: what does not change what is learned, or has already been resolved into what is told.
NOT_TOLD = ("log_every", "eval_every", "save_every", "keep", "micro_batch", "steps", "epochs", "min_steps", "max_steps",
            "lr_fraction", "unrecorded_lr", "name")
ALWAYS = {"class": "It answers with one of its labels whatever the text is about, also where none applies.",
          "labels": "It knows no label but those above.",
          "number": "Its number means what the labels it learned from meant, and little outside their range.",
          "tags": "It knows no kind of entity but those above, and text unlike that of the task is harder for it."}


def stages(record: dict, path: str = "") -> list[tuple[dict, str]]:
    """(record, where it stands inside this one) of every training that led here, the first one first."""
    key = next((key for key in ("encoder_record", "init_record") if record.get(key)), None)
    return [*(stages(record[key], f"{path}['{key}']") if key else []), (record, path)]


def licences(record: dict, given: Mapping[str, str | None] = {}) -> list[tuple[str, str, str | None]]:
    """(kind, name, licence) of all the text, labels and weights that this came from; kind: corpus, labels or base.

    given: licences by kind, for what does not name its own. A record older than that names no source at all.
    """
    found: dict[tuple[str, str], str | None] = {}
    for stage, _ in stages(record):
        told, config = stage.get("licences", {}), stage["config"]
        if stage["kind"] == "encoder":
            learned = {"corpus": {config["corpus"]["name"]: None}}
            outside = None if stage["init_record"] else stage["init"]
        else:
            learned = {"labels": {config["task"]["name"]: None}}
            outside = None if stage["encoder_record"] else config["encoder"]
        found |= {(kind, source): licence for kind in ("corpus", "labels")
                  for source, licence in told.get(kind, learned.get(kind, {})).items()}
        if base := told.get("base", outside and {"name": outside, "licence": None}):
            found["base", base["name"]] = base["licence"]
    return [(kind, name, licence or given.get(kind)) for (kind, name), licence in found.items()]


def languages(record: dict) -> list[str]:
    """Tags of the languages that the sources say their text is in."""
    return sorted({tag for stage, _ in stages(record) for tag in stage.get("text", {}).get("languages", [])})


def text(stage: dict) -> str:
    """What a stage learned from: counts, and what was removed and why."""
    config = stage["config"]
    if stage["kind"] == "model":
        rows = ", ".join(f"{count:,} {split}" for split, count in stage["rows"].items())
        best = "chose the weights that were kept" if config["train"]["best"] else "were not used"
        unlabelled = config.get("selftrain", {}).get("corpus") if config.get("selftrain", {}).get("rounds") else None
        return (f"**Labels of `{config['task']['name']}`**: {rows} rows. Validation labels {best}."
                + f" Besides, sentences of `{unlabelled}`, labelled by the model itself." * bool(unlabelled))
    train, told = stage["documents"]["train"], stage.get("text", {"steps": [], "notes": []})
    lines = [f"**Text of `{config['corpus']['name']}`**: {train['documents']:,} documents, {train['tokens']:,} tokens;"
             f" {stage['documents']['held_out']['documents']:,} documents more were held out.", ""]
    if told["steps"]:
        changed = [after for before, after in zip([[], *told["steps"]], told["steps"]) if before[1:] != after[1:]]
        lines += ["| | documents | words | tokens |", "|---|--:|--:|--:|",
                  *(f"| {step} | " + " | ".join(f"{count:,}" for count in counts) + " |" for step, *counts in changed), ""]
    # Test text that was found has a section of its own.
    return "\n".join(lines + [f"- {note}" for note in told["notes"] if " test text of " not in note]).rstrip()


def training(stage: dict) -> str:
    """Objective or head, and schedule."""
    config, part = stage["config"], "objective" if stage["kind"] == "encoder" else "head"
    steps = stage.get("steps", config["train"]["steps"])
    schedule = {"steps": steps, **config["train"], "dropout": config["dropout"], "seed": config["seed"]}
    told = [", ".join(f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in section.items()
                      if key not in NOT_TOLD and not isinstance(value, dict | list | None))
            for section in (config[part], schedule)]
    return (f"- `{stage['run']}`, {part} `{config[part]['name']}`: {told[0]}\n"
            f"- `{stage['run']}`, {steps:,} steps: {told[1]}")


def compute(every: list[dict]) -> str:
    """Time, hardware and energy of each stage."""
    lines, energy, powers = ["| run | steps | tokens | time | on | energy |", "|---|--:|--:|--:|---|--:|"], 0.0, {}
    for stage in every:
        hardware, seconds = stage.get("hardware"), stage.get("seconds", 0)
        machine, spent = "not recorded", ""
        if hardware:
            hours, watts = seconds / 3600, hardware["watts"]
            energy, spent = energy + hours * watts / 1000, f"{hours * watts / 1000:.2g} kWh"
            powers[f"{watts} W"] = None
            gpus = f", {len(hardware['gpus'])} x {hardware['gpus'][0]}" if hardware["gpus"] else ""
            machine = f"{hardware['cores']} cores of {hardware['processor']}{gpus}, {stage['precision']}"
        steps, tokens = (f"{stage[key]:,}" if key in stage else "" for key in ("steps", "tokens"))
        lines.append(f"| `{stage['run']}` | {steps} | {tokens} | {seconds // 60:.0f} min {seconds % 60:.0f} s | {machine}"
                     f" | {spent} |")
    told = (f"Energy is an estimate, {energy:.2g} kWh in all: time of training x {', '.join(powers)}. The power is assumed,"
            " not measured: 10 W a core, and of a GPU what its maker says it draws at most.")
    return "\n".join([*lines, *(["", told] if powers else [])])


def seen(every: list[dict], study: dict | None) -> str:
    """Test text that was found in what was learned from."""
    found = []
    for stage in every:
        if stage["kind"] == "model":
            continue
        corpus, looked_for = stage["config"]["corpus"]["name"], stage.get("text", {}).get("contamination", [])
        found += [f"{task['documents']:,} documents of `{corpus}` hold test text of {task['name']}"
                  f" ({task['found_whole']:,} of its {task['test_texts']:,} test texts whole, {task['found_in_part']:,} in"
                  " part)" + (f"; they were {'removed' if task['removed'] else 'kept'}." if task["documents"] else ".")
                  for task in looked_for]
        if not looked_for:
            found.append(f"`{corpus}` was not searched for test text when it was made.")
    if study:
        told = study["contamination"]
        labels, rows = told["labels"], told["test_rows"]
        found.append(f"{labels['exact']:,} of the {rows:,} test rows of {study['task']} also stand in its training rows,"
                     f" {labels['near']:,} nearly; {told['measured']:,} were measured in the study.")
        found += [f"{each['test']['exact']:,} of them stand in `{each['corpus']}`, {each['test']['near']:,} nearly."
                  for each in told["corpora"] if "test" in each]
    return "\n".join(f"- {line}" for line in found) or "- What its encoder was trained on is not known here."


def limits(record: dict) -> str:
    """What it is for and what it is not."""
    model = record["kind"] == "model"
    longest = record["config"]["max_length"] if model else record["longest_text"]
    use = ("For text like that of its task." if model else
           "For vectors of texts, to compare, search and group them by, and to be taught a task with few labels.")
    return "\n".join([
        f"- {use} Not for decisions about people that nobody looks at.",
        f"- It was trained on texts of up to {longest:,} tokens; of longer ones it was shown parts.",
        f"- Languages of its text, as far as the sources say: {', '.join(languages(record)) or NOT_NAMED}.",
        *([f"- {ALWAYS[record.get('learns', 'class')]}"] if model else []),
        "- What its text and labels favour or leave out, it favours or leaves out. The figures above are of the rows they"
        " name, and promise nothing for other text."])


def commands(record: dict, name: str) -> str:
    """What repeats all of it in Headstart's folder, from record.json."""
    lines = [f"hf download {name} record.json --local-dir ."]
    for number, (stage, path) in enumerate(stages(record), 1):
        read = f"json.load(open('record.json')){path}['config']"
        lines += [f"python -c \"import json; json.dump({read}, open('{number}.yaml', 'w'), ensure_ascii=False)\"",
                  f"python -m {'pretrain' if stage['kind'] == 'encoder' else 'finetune'} {number}.yaml"]
    return "\n".join(lines)
