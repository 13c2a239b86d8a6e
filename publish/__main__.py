"""`python -m publish run=out/runs/NAME repo=OWNER/NAME`: check a finished run, then send it to the hub of HF_ENDPOINT."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.cli import parse_config, run_command
from engine.errors import DataError, HubError
from publish.config import Publish

EXAMPLE = "run=out/runs/default repo=me/reviews license.corpus=unknown"


def normalize_flags(args: list[str]) -> list[str]:
    """The words with `--revision X`, `--dry-run` and `--private` as other tools spell them written as keys."""
    found: list[str] = []
    for word in args:
        if found and found[-1] == "revision=":
            found[-1] += word
        elif word == "--revision":
            found.append("revision=")
        else:
            found.append(
                {"--dry-run": "dry_run=true", "--private": "private=true"}.get(
                    word, word.removeprefix("--") if word.startswith("--revision=") else word
                )
            )
    return found


def list_files(folder: Path) -> str:
    """Every file with its size."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(
        [f"  {path.stat().st_size:>14,}  {path.relative_to(folder)}" for path in files]
        + [f"  {sum(path.stat().st_size for path in files):>14,}  bytes in {len(files)} files"]
    )


def publish(config: Publish) -> None:
    """Check, then send. Raises ConfigError, DataError and HubError for what a person can put right."""
    from publish.card.card import record_fingerprint
    from publish.hub import upload  # which takes a second, and reads HF_ENDPOINT
    from publish.hub.bundle import assemble, find_bundle
    from publish.hub.checks import run_checks

    source = find_bundle(config.run, config.adapter, config.allow)
    if not config.dry_run:
        upload.check_access(config.repo)
    sample, told = source.run_folder / "sample.json", [f"{source.folder} as {config.repo}"]
    if source.num_redacted_paths:
        told.append(f"  record.json: {source.num_redacted_paths} paths of this machine shortened")
    if source.study_folder:
        told.append(f"  results: with the study {source.study_folder}")
    if not sample.is_file():
        told.append(f"  {sample}: not there, the run is older; what it says is not compared")
    print("\n".join(told), flush=True)
    with assemble(source, config.repo, config.license) as folder:
        found = run_checks(folder, sample, config.repo.partition("/")[0], config.license, config.allow)
        if found:
            raise DataError("\n".join(f"{config.run}: {line}" for line in found) + "\nNothing was sent.")
        print(
            f"  checked: plain transformers loads it{', and it says what was recorded' * sample.is_file()}", flush=True
        )
        if config.dry_run:
            print(f"\n{list_files(folder)}\n\n{(folder / 'README.md').read_text(encoding='utf-8')}")
            return
        sent = upload.upload(
            folder, config, f"Publish {source.run_folder.name}", f"run-{record_fingerprint(source.record)}"
        )
    print(
        f"  {sent.num_changed_files} files in one commit"
        if sent.num_changed_files
        else "  nothing has changed: nothing was sent"
    )
    print(f"\n  published  {sent.url}")


def main(args: list[str]) -> None:
    args = normalize_flags(args)
    config = parse_config(Publish, args, "publish", EXAMPLE)
    if config:
        try:
            publish(config)
        except HubError as error:
            raise HubError(
                f"{error}\nThe run stays as it is, and what has arrived is not sent again:"
                f" {shlex.join(['python', '-m', 'publish', *args])}"
            ) from None


if __name__ == "__main__":
    run_command(main)
