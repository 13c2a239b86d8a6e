"""Write docs/configuration.md, every key of every command, from the schemas:  python -m docs.generate_configuration."""

from pathlib import Path

from compare.config import Compare as CompareObjectives
from data.config import Prepare
from engine.config.help import Keys, group_keys
from engine.config.schema import Section
from explore.config import Explore
from finetune.config import Finetune
from finetune.study.config import Study
from label.config import Label
from predict.config import Predict
from pretrain.config import Pretrain
from pretrain.evaluate.config import Evaluate
from publish.compare import Compare
from publish.config import Publish
from publish.export.__main__ import Export

PAGE = Path(__file__).parent / "configuration.md"
IMAGES = {"modality": "images"}
COMMANDS: dict[str, tuple[str, type[Section]]] = {
    "data": ("data", Prepare.choose_schema({})),
    "data images": ("data modality=images", Prepare.choose_schema(IMAGES)),
    "pretrain": ("pretrain", Pretrain.choose_schema({})),
    "pretrain images": ("pretrain modality=images", Pretrain.choose_schema(IMAGES)),
    "explore": ("explore", Explore.choose_schema({})),
    "explore images": ("explore modality=images", Explore.choose_schema(IMAGES)),
    "label": ("label", Label),
    "finetune": ("finetune", Finetune.choose_schema({})),
    "finetune images": ("finetune task.modality=images", Finetune.choose_schema({"task": IMAGES})),
    "predict": ("predict", Predict),
    "study": ("finetune.study", Study.choose_schema({})),
    "compare-objectives": ("compare", CompareObjectives),
    "evaluate": ("pretrain.evaluate", Evaluate),
    "publish": ("publish", Publish),
    "export": ("publish.export", Export),
    "compare": ("publish.compare", Compare),
}
"""Target of the Makefile, and of what -> module that `python -m` runs, and the schema of its configuration."""

INTRODUCTION = """\
# Configuration

<!-- Generated from the schemas by `python -m docs.generate_configuration`. Do not edit. -->

Every key of every command, with its default and meaning, as `python -m MODULE --help` prints them;
`python -m MODULE --help SECTION` prints one section.

- A command takes YAML files and `key=value` arguments, merged from left to right: later values win. A YAML file may
  `include:` others, with paths relative to itself, which are merged before it. With make, pass keys as
  `ARGS="train.steps=200 run=mine"`.
- Another `name` of a section (`objective`, `head`, `adapter`) resets the keys that files before it set. So does a
  `corpus` or `task` in another file, or given with all that it needs: `task.name=mine task.train.files=mine.csv`.
  `task.name=mine` alone only renames it.
- `--key value`, `--key=value` and `--switch` are the same as `key=value` and `switch=true`. `--dry-run` sets
  `train.dry_run=true`, or `dry_run=true` for publishing.
- `none` is no value. Lists and mappings are written as in YAML: `study.shots=[8, 32]`.
- All mistakes are reported at once, as `key: problem (nearest: x)`, with exit code 2. A renamed key or value is
  reported with its new name.
- `config.yaml` in a run's folder is the resolved configuration and valid input itself.

Some arguments are shortcuts for a source: `text=FILES` (pretrain and explore) for a corpus, `labels=FILE` (finetune)
for a task with the columns that are found by name, `images=FOLDER` (explore), and `file=FILE` (label and predict) for
`source.files`. `model=RUN` alone (explore) also sets the task, and the texts after `model=RUN` (predict) are the
input.

`(needed)` stands for a key without default. A row `x.*` refers to keys with the same meaning as those of another
section, and `[]` to each element of a list.
"""


def escape_cell(text: str) -> str:
    """Escape what would end a table cell or start HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def format_table(keys: Keys) -> str:
    """Format the keys of a section as a Markdown table."""
    rows = [
        f"| `{key}` | {f'`{escape_cell(default)}`' if default else ''} | {escape_cell(meaning)} |"
        for key, (default, meaning) in keys.items()
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def format_page() -> str:
    """Format the page; a section that an earlier command has, with the same keys, becomes a link to it."""
    parts, known = [INTRODUCTION], {}
    for target, (module, schema) in COMMANDS.items():
        parts.append(
            f"## {target}\n\n`make {target.split()[0]}` or `python -m {module}`. {schema.__doc__.splitlines()[0]}\n"
        )
        repeated = []
        for name, keys in group_keys(schema).items():
            entry = (name, tuple(keys.items()))
            if entry in known:
                repeated.append(f"[{name}](#{known[entry].replace(' ', '-')}-{name})")
                continue
            known[entry] = target
            parts.append(f"### {target}: {name}\n\n{format_table(keys)}\n")
        if repeated:
            parts.append(f"The same as above: {', '.join(repeated)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(format_page(), encoding="utf-8")
