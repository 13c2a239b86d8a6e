"""Model card: the README.md of an encoder, model or adapter, generated from the run's record.

build_model_card(record)                                     the card in the run's folder
build_model_card(record, "user/name", licenses, study)       the card as published
"""

import hashlib
import json
import re
from collections.abc import Mapping

from huggingface_hub import ModelCardData
from markupsafe import Markup

from data.modalities import Modality, load_modality
from data.tasks.problem_types import ProblemType, load_problem_type
from engine.html import code_span, escape_markdown, render
from engine.sanitize import escape_controls
from publish.card import provenance, results
from publish.card.results import (
    DEFAULT_METRICS as DEFAULT_METRICS,
    describe_evaluation as describe_evaluation,
    describe_quality as describe_quality,
    describe_test_rows as describe_test_rows,
    describe_views as describe_views,
    find_problem_type as find_problem_type,
    metric_title as metric_title,
)

MAX_LABELS_LISTED = 30
STUDY_PLOT = "label-efficiency.png"
# Identifiers of the hub. Any other license becomes `other`, with its name in `license_name`.
HUB_LICENSES = """apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl unlicense
openrail other unknown""".split()


def record_fingerprint(record: dict) -> str:
    """Return twelve hexadecimal digits that identify the record; studies store the same fingerprint."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def kinds(record: dict) -> tuple[Modality, ProblemType | None]:
    """Return the modality, and for a fine-tuned model the problem type."""
    problem_type = load_problem_type(record["problem_type"]) if record["kind"] == "model" else None
    return load_modality(record.get("modality", "text")), problem_type


def pipeline_tag(record: dict) -> str | None:
    """Return the hub's task name."""
    modality, problem_type = kinds(record)
    if problem_type:
        return modality.pipeline_task(problem_type)
    return "fill-mask" if "loss" in record["eval"] else modality.encoder_task


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
    sources = [source for stage in encoders for source in stage["config"].get("corpus", {}).get("sources", [])]
    own_tags = [config["task"]["name"]] if record["kind"] == "model" else ["encoder", config["objective"]["name"]]
    own_tags += ["anomaly-detection"] if record.get("problem_type") == "anomaly_detection" else []
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
    return escape_controls(f"---\n{metadata.to_yaml()}\n---")


def model_name(record: dict, model_id: str) -> str:
    """Return the title of the card."""
    return model_id.rpartition("/")[2] if "/" in model_id else record["run"]


def describe_task(record: dict) -> str:
    """Return a sentence on what the model predicts, as Markdown."""
    modality, problem_type = kinds(record)
    names = problem_type.card_labels(record["label_names"])
    listed = ", ".join(names[:MAX_LABELS_LISTED])
    if len(names) > MAX_LABELS_LISTED:
        listed += f" and {len(names) - MAX_LABELS_LISTED:,} more"
    article = "An" if modality.input_noun[0] in "aeiou" else "A"
    text = problem_type.card_description.replace("A {input}", f"{article} {{input}}")
    text = text.replace("a {input}", f"{article.lower()} {{input}}")
    text, in_code = text.replace("{input}", modality.input_noun), "`{labels}`"
    return text.replace(in_code, code_span(listed)) if in_code in text else text.format(labels=escape_markdown(listed))


def pipeline_call(record: dict, model_id: str) -> str:
    """Return the Python call of transformers' pipeline for the model `model_id`. record: of a model, or its metrics."""
    modality = load_modality(record.get("modality", "text"))
    problem_type = find_problem_type(record)
    task, options = modality.pipeline_task(problem_type), problem_type.pipeline_options
    return f"pipeline('{task}', '{model_id}'{options})('{modality.example_input}')"


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
    is_model, stages = record["kind"] == "model", [stage for stage, _ in provenance.training_stages(record)]
    modality, problem_type = kinds(record)
    return render(
        "publish/card/card_template.md",
        front_matter=Markup(front_matter(record, model_id, default_licenses, study, is_adapter)),
        name=model_name(record, model_id),
        task_description=Markup(describe_task(record)) if is_model else "",
        record=record,
        model_id=model_id,
        modality=modality,
        problem_type=problem_type,
        auto_class=modality.auto_class(problem_type) if is_adapter else None,
        pipeline_call=pipeline_call(record, model_id).replace("'", '"') if is_model else "",
        stages=[{**stage, **provenance.describe_stage(stage)} for stage in stages],
        compute=provenance.compute_infrastructure(stages),
        metrics=results.metrics_table(record),
        test_rows=results.describe_test_rows(record),
        quality=results.describe_quality(record),
        study=study,
        study_table=study and results.study_table(study),
        plot=STUDY_PLOT,
        limitation=problem_type.card_limitation.format(inputs=modality.inputs_noun) if is_model else "",
        languages=provenance.languages(record),
        licenses=provenance.collect_licenses(record, default_licenses),
        unspecified=provenance.UNSPECIFIED,
        commands=provenance.reproduction_commands(record, model_id),
        fingerprint=record_fingerprint(record),
    )
