"""Configuration keys and names that have been renamed: an old one is reported with its new name."""

from __future__ import annotations

RENAMED = {
    "adapt": "tapt",
    "changed": "allow_changes",
    "evaluation_rows": "eval_rows",
    "head_warmup": "head_only_fraction",
    "init_share": "init_fraction",
    "labels": "num_examples",
    "length": "max_length",
    "licence": "license",
    "likeness": "sts",
    "neighbours": "num_neighbors",
    "short_rows": "short_sequence_fraction",
    "*.having": "*.non_empty",
    "*.licence": "*.license",
    "*.separator": "*.delimiter",
    "adapter.lr_factor": "adapter.lr_scale",
    "adapter.targets": "adapter.target_modules",
    "augment.longest": "augment.max_span",
    "corpus.clean.personal": "corpus.clean.mask_pii",
    "corpus.engine": "corpus.runner",
    "corpus.decontaminate.shortest": "corpus.decontaminate.min_words",
    "corpus.decontaminate.words": "corpus.decontaminate.ngram",
    "head.balance": "head.class_weights",
    "head.beside": "head.cross_entropy_weight",
    "head.focal": "head.focal_gamma",
    "head.pieces": "head.label_all_tokens",
    "layers.cache": "layers.cache_frozen",
    "layers.decay": "layers.lr_decay",
    "layers.embeddings": "layers.train_embeddings",
    "layers.freeze_after": "layers.freeze_min_epochs",
    "layers.frozen": "layers.num_frozen",
    "layers.probe": "layers.linear_probe",
    "layers.reinitialise": "layers.reinit_layers",
    "objective.longest": "objective.max_span",
    "objective.pairs.first": "objective.pairs.anchor",
    "objective.pairs.hard": "objective.pairs.negative",
    "objective.pairs.second": "objective.pairs.positive",
    "objective.predictor": "objective.predictor_dim",
    "objective.projection": "objective.projection_dim",
    "objective.random": "objective.random_prob",
    "objective.reach": "objective.max_gap",
    "objective.shortest": "objective.min_span",
    "objective.unchanged": "objective.keep_prob",
    "objective.weight": "objective.contrastive_weight",
    "selftrain.documents": "selftrain.max_documents",
    "selftrain.labelled_share": "selftrain.labeled_fraction",
    "selftrain.least": "selftrain.min_confidence",
    "selftrain.sentences": "selftrain.sentences_per_document",
    "selftrain.share": "selftrain.top_fraction",
    "selftrain.texts": "selftrain.max_texts",
    "study.all_seeds": "study.full_data_seeds",
    "study.labels": "study.shots",
    "study.shown": "study.max_confusion_size",
    "study.ways": "study.variants",
    "task.labels": "task.num_examples",
    "task.per_class": "task.shots",
    "task.test_share": "task.test_fraction",
    "task.validation_share": "task.validation_fraction",
    "train.average": "train.average_fraction",
    "train.best": "train.load_best",
    "train.check": "train.dry_run",
    "train.clip": "train.max_grad_norm",
    "train.keep": "train.keep_checkpoints",
    "train.micro_batch": "train.micro_batch_size",
    "train.most_skipped": "train.max_skipped_steps",
    "train.spike": "train.max_loss_ratio",
    "train.unrecorded_lr": "train.default_pretrain_lr",
    "train.warmup": "train.warmup_fraction",
}
"""Old key -> new key, dotted, without list indices. `*` stands for any section, for keys of a data source."""

RENAMED_VALUES = {
    ("head.name", "contrastive"): "supcon",
    ("head.name", "tokens"): "token_classification",
    ("train.sampling", "rows"): "shuffle",
    ("train.sampling", "classes"): "class_balanced",
    ("head.label_all_tokens", "first"): "false",
    ("head.label_all_tokens", "all"): "true",
}
"""(key, old value) -> new value."""


def find_new_key(location: tuple[str | int, ...]) -> str | None:
    """Return the new name of the key at `location`, or None if it was never renamed."""
    plain = [part for part in location if not isinstance(part, int)]
    if new := RENAMED.get(".".join(plain)):
        return new
    leaf = RENAMED.get(f"*.{plain[-1]}") if len(plain) > 1 else None
    return leaf and ".".join([*map(str, location[:-1]), leaf.removeprefix("*.")])


def find_new_value(key: str, value: object) -> str | None:
    """Return `KEY: OLD is now NEW` for a renamed value of a key, or for the `name` of a section; else None."""
    if isinstance(value, dict):
        key, value = f"{key}.name", value.get("name")
    new = RENAMED_VALUES.get((key, value)) if isinstance(value, str) else None
    return new and f"{key}: {value} is now {new}"
