"""Configuration keys and names that have been renamed: an old one is reported with its new name."""

SECTIONS = {
    "": "adapt=tapt changed=allow_changes evaluation_rows=eval_rows head_warmup=head_only_fraction"
    " init_share=init_fraction labels=num_examples length=max_length licence=license likeness=sts"
    " neighbours=num_neighbors short_rows=short_sequence_fraction",
    "*": "having=non_empty licence=license separator=delimiter",
    "adapter": "lr_factor=lr_scale targets=target_modules",
    "augment": "longest=max_span",
    "corpus.clean": "personal=mask_pii",
    "corpus": "engine=runner",
    "corpus.decontaminate": "shortest=min_words words=ngram",
    "head": "balance=class_weights beside=cross_entropy_weight focal=focal_gamma pieces=label_all_tokens",
    "layers": "cache=cache_frozen decay=lr_decay embeddings=train_embeddings freeze_after=freeze_min_epochs"
    " frozen=num_frozen probe=linear_probe reinitialise=reinit_layers",
    "objective": "longest=max_span predictor=predictor_dim projection=projection_dim random=random_prob reach=max_gap"
    " shortest=min_span unchanged=keep_prob weight=contrastive_weight",
    "objective.pairs": "first=anchor hard=negative second=positive",
    "selftrain": "documents=max_documents labelled_share=labeled_fraction least=min_confidence"
    " sentences=sentences_per_document share=top_fraction texts=max_texts",
    "study": "all_seeds=full_data_seeds labels=shots shown=max_confusion_size ways=variants",
    "task": "labels=num_examples per_class=shots test_share=test_fraction validation_share=validation_fraction",
    "train": "average=average_fraction best=load_best check=dry_run clip=max_grad_norm keep=keep_checkpoints"
    " micro_batch=micro_batch_size most_skipped=max_skipped_steps spike=max_loss_ratio"
    " unrecorded_lr=default_pretrain_lr warmup=warmup_fraction",
}
"""Section -> its renamed keys, OLD=NEW. `*` stands for any section: the keys of a data source are in many places."""

RENAMED = {
    f"{section}.{old}".lstrip("."): f"{section}.{new}".lstrip(".")
    for section, pairs in SECTIONS.items()
    for old, _, new in (pair.partition("=") for pair in pairs.split())
}

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
    if new := RENAMED.get(".".join(map(str, plain))):
        return new
    leaf = RENAMED.get(f"*.{plain[-1]}") if len(plain) > 1 else None
    return leaf and ".".join([*map(str, location[:-1]), leaf.removeprefix("*.")])


def find_new_value(key: str, value: object) -> str | None:
    """Return `KEY: OLD is now NEW` for a renamed value of a key, or for the `name` of a section; else None."""
    if isinstance(value, dict):
        key, value = f"{key}.name", value.get("name")
    new = RENAMED_VALUES.get((key, value)) if isinstance(value, str) else None
    return new and f"{key}: {value} is now {new}"


def find_old_key(config: object, location: tuple[str | int, ...] = ()) -> str | None:
    """Return `OLD is now NEW` for the first renamed key of a saved configuration, or None: this version wrote it."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        here = (*location, key)
        if isinstance(config, dict) and (new := find_new_key(here)):
            return f"{'.'.join(map(str, here))} is now {new}"
        if line := find_old_key(value, here):
            return line
    return None
