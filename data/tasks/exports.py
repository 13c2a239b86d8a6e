"""Exports of annotation tools: Label Studio, Argilla, Prodigy and doccano.

`read_export` adds the columns `text` and `label` to a row: a class, a list of classes, or spans of characters.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

from data.sources.values import MISSING, find_value

PRODIGY_ANSWERS = ("accept", "reject", "ignore")
ARGILLA_COLUMNS = ("inputs", "status", "annotation_agent", "prediction_agent", "event_timestamp")
"""Columns of a record of Argilla's first version, of which a table of its own is unlikely to have any."""
LISTS = ("choices", "labels", "hypertextlabels", "taxonomy")
Found = dict | None


def read_export(row: dict, allow_empty: bool, label: Sequence[str] = ()) -> Found:
    """Return a row with its columns `text` and `label` if a tool exported it; None if it is not annotated.

    Any other row is returned as it is. allow_empty: whether a row without any label is annotated. label: the columns
    asked for; a row with a text and all of them may be of any table, whatever other columns a tool would have.
    """
    has_own = "text" in row and label and not any(find_value(row, column) is MISSING for column in label)
    for matches, read in READERS:
        if matches(row) and not (has_own and read is read_doccano):
            found = read(row)
            if found is None or not (found["label"] or found["label"] == 0 or allow_empty):
                return None
            return {
                **get_metadata(row),
                **found,
                **row,
                **{name: found[name] for name in ("text", "label") if found[name] is not None},
            }
    return row


def export_text(row: dict) -> dict:
    """Return a row with the column `text` if it is a tool's, annotated or not; any other row as it is."""
    fields = next((row[key] for key in ("data", "fields") if isinstance(row.get(key), dict)), None)
    text = only_text(fields) if fields else row["data"] if isinstance(row.get("data"), str) else None
    return row if text is None else {**get_metadata(row), **(fields or {}), **row, "text": text}


def get_metadata(row: dict) -> dict:
    """Return what a tool kept of the columns of a row that are neither text nor label, such as its role."""
    return next((row[key] for key in ("metadata", "meta") if isinstance(row.get(key), dict)), {})


def only_text(fields: dict) -> object:
    """Return the field `text` or, without it, the only string."""
    texts = [value for value in fields.values() if isinstance(value, str)]
    return fields.get("text", texts[0] if len(texts) == 1 else None)


def only_label(values: dict) -> object:
    """Return the value named `label` or, without it, the first one."""
    return values.get("label", next(iter(values.values()), None))


def most_common(values: list) -> object:
    """Return the value that most annotators gave, the first of equally many."""
    keys = [json.dumps(value, sort_keys=True, default=str) for value in values]
    return values[keys.index(Counter(keys).most_common(1)[0][0])]


def is_label_studio(row: dict) -> bool:
    """Return whether a row is a task of Label Studio's JSON."""
    return isinstance(row.get("data"), dict) and isinstance(row.get("annotations", row.get("completions")), list)


def read_label_studio(row: dict) -> Found:
    """Read a task: the value of each control by its name."""
    annotations = row.get("annotations", row.get("completions"))
    answers = [read_result(each.get("result") or []) for each in annotations if not each.get("was_cancelled")]
    if not answers:
        return None
    names = dict.fromkeys(name for answer in answers for name in answer)
    values = {name: most_common([answer[name] for answer in answers if name in answer]) for name in names}
    label = only_label(values) if values else []
    return {**row["data"], **values, "text": only_text(row["data"]), "label": label}


def read_result(result: list[dict]) -> dict:
    """Return the value of each control in one annotation: spans, a list of choices, or a number."""
    values: dict = {}
    for item in result:
        value, name = item.get("value") or {}, item.get("from_name", "label")
        labels = next((value[kind] for kind in LISTS if isinstance(value.get(kind), list)), None)
        if "start" in value and "end" in value:
            span = {"start": value["start"], "end": value["end"], "label": (labels or [None])[0]}
            values.setdefault(name, []).append(span | ({"text": value["text"]} if "text" in value else {}))
        elif labels is not None:
            values.setdefault(name, []).extend(part[-1] if isinstance(part, list) else part for part in labels)
        elif "rating" in value or "number" in value:
            values[name] = value.get("rating", value.get("number"))
    return values


def is_argilla(row: dict) -> bool:
    """Return whether a row is a record of Argilla: nested, flattened, or of its first version."""
    is_nested = isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict)
    has_columns = row.keys() >= {"annotation", "prediction"} and any(column in row for column in ARGILLA_COLUMNS)
    is_first_version = has_columns and "label" not in row
    return is_nested or is_first_version or any(name.endswith(".responses") for name in row)


def read_argilla(row: dict) -> Found:
    """Read a record: the submitted responses to each question by its name."""
    if "annotation" in row:
        text = row.get("text") or only_text(row.get("inputs") or {})
        return None if row["annotation"] is None else {"text": text, "label": row["annotation"]}
    if "fields" in row:
        fields, responses = row["fields"], row["responses"]
    else:
        fields = {name: value for name, value in row.items() if "." not in name and name not in ("id", "status")}
        responses = {name.removesuffix(".responses"): row[name] for name in row if name.endswith(".responses")}
    values = {}
    for question, given in responses.items():
        given = [each if isinstance(each, dict) else {"value": each} for each in given or []]
        submitted = [each["value"] for each in given if each.get("status") in (None, "submitted") and "value" in each]
        if submitted:
            values[question] = most_common(submitted)
    return {**fields, **values, "text": only_text(fields), "label": only_label(values)} if values else None


def is_prodigy(row: dict) -> bool:
    """Return whether a row is an answer of Prodigy."""
    return row.get("answer") in PRODIGY_ANSWERS and isinstance(row.get("text"), str)


def read_prodigy(row: dict) -> Found:
    """Read an answer: spans, the accepted options, or a label that is rejected or not."""
    if row["answer"] == "ignore" or row["answer"] == "reject" and ("spans" in row or "accept" in row):
        return None
    if "accept" in row:
        label = row["accept"]
    elif "label" in row:
        label = row["label"] if row["answer"] == "accept" else f"not {row['label']}"
    else:
        label = row.get("spans", [])
    return {"text": row["text"], "label": label}


def is_doccano(row: dict) -> bool:
    """Return whether a row is of doccano, in a form without the columns `text` and `label`."""
    is_old = isinstance(row.get("data"), str) and "text" not in row and any(key in row for key in ("label", "labels"))
    entities = row.get("entities")
    has_spans = isinstance(entities, list) and all(isinstance(each, dict) for each in entities) and "label" not in row
    return is_old or "text" in row and (has_spans or "labels" in row and "label" not in row)


def read_doccano(row: dict) -> Found:
    """Read a document: classes or spans."""
    return {"text": row.get("text", row.get("data")), "label": row.get("label", row.get("labels", row.get("entities")))}


READERS: tuple[tuple[Callable[[dict], bool], Callable[[dict], Found]], ...] = (
    (is_label_studio, read_label_studio),
    (is_argilla, read_argilla),
    (is_prodigy, read_prodigy),
    (is_doccano, read_doccano),
)
