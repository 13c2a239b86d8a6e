"""`python -m publish run=out/runs/NAME repo=OWNER/NAME`: check a finished run, then send it to the hub of HF_ENDPOINT."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.command import command, configuration
from engine.errors import DataError, HubError
from publish.config import Publish

EXAMPLE = "run=out/runs/default repo=me/reviews licence.corpus=unknown"


def keys(words: list[str]) -> list[str]:
    """The words with `--revision X`, `--dry-run` and `--private` as other tools spell them written as keys."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == "revision=":
            found[-1] += word
        elif word == "--revision":
            found.append("revision=")
        else:
            found.append({"--dry-run": "dry_run=true", "--private": "private=true"}.get(word, word.removeprefix("--")
                         if word.startswith("--revision=") else word))
    return found


def listing(folder: Path) -> str:
    """Every file with its size."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join([f"  {path.stat().st_size:>14,}  {path.relative_to(folder)}" for path in files]
                     + [f"  {sum(path.stat().st_size for path in files):>14,}  bytes in {len(files)} files"])


def publish(config: Publish) -> None:
    """Check, then send. Raises ConfigError, DataError and HubError for what a person can put right."""
    from publish import hub  # which takes a second, and reads HF_ENDPOINT
    from publish.card import fingerprint
    from publish.checks import problems
    from publish.folder import assembled, find
    source = find(config.run, config.adapter, config.allow)
    if not config.dry_run:
        hub.check(config.repo)
    sample, told = source.run / "sample.json", [f"{source.folder} as {config.repo}"]
    if source.shortened:
        told.append(f"  record.json: {source.shortened} paths of this machine shortened")
    if source.study:
        told.append(f"  results: with the study {source.study}")
    if not sample.is_file():
        told.append(f"  {sample}: not there, the run is older; what it says is not compared")
    print("\n".join(told), flush=True)
    with assembled(source, config.repo, config.licence) as folder:
        found = problems(folder, sample, config.repo.partition("/")[0], config.licence, config.allow)
        if found:
            raise DataError("\n".join(f"{config.run}: {line}" for line in found) + "\nNothing was sent.")
        print(f"  checked: plain transformers loads it{', and it says what was recorded' * sample.is_file()}", flush=True)
        if config.dry_run:
            print(f"\n{listing(folder)}\n\n{(folder / 'README.md').read_text(encoding='utf-8')}")
            return
        sent = hub.send(folder, config, f"Publish {source.run.name}", f"run-{fingerprint(source.record)}")
    print(f"  {sent.files} files in one commit" if sent.files else "  nothing has changed: nothing was sent")
    print(f"\n  published  {sent.address}")


def main(words: list[str]) -> None:
    words = keys(words)
    config = configuration(Publish, words, "publish", EXAMPLE)
    if config:
        try:
            publish(config)
        except HubError as error:
            raise HubError(f"{error}\nThe run stays as it is, and what has arrived is not sent again:"
                           f" {shlex.join(['python', '-m', 'publish', *words])}") from None


if __name__ == "__main__":
    command(main)
