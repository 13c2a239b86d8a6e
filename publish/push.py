"""A checkpoint's encoder folder sent to a branch of a hub while training goes on:

    python -m publish.push folder=out/runs/NAME/pushing repo=me/name

Two never run at once for a folder: the second leaves it to the next one. What is checked is what takes no time.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from engine.command import command, configuration
from engine.errors import ConfigError, DataError, UserError
from publish.config import Destination, Licences


class Push(Destination):
    """Send the encoder folder of a checkpoint to a model hub."""

    folder: str
    """The folder, as pretraining writes it."""
    private: bool = True
    """Whether only its owner may see it; one that is there already must be private then."""
    revision: str = "checkpoints"
    """The branch; made from main if it is not there."""


def push(config: Push) -> str:
    """What became of it, in a line. Raises ConfigError, DataError and HubError for what a person can put right."""
    from publish import hub
    from publish.checks import front_matter, secrets, strays, weights
    from publish.folder import assembled, source_of
    folder = Path(config.folder)
    if not (folder / "record.json").is_file():
        raise ConfigError(f"{folder}: no encoder folder, there is no record.json in it")
    source = source_of(folder)
    with open(folder.parent / ".push.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "left to the next one: another push is under way"
        with assembled(source, config.repo, Licences()) as place:
            files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
            for line in (*strays(files), *weights(files), *secrets(files, {config.repo.partition("/")[0]}),
                         *front_matter(files["README.md"])):
                raise DataError(f"{folder}: {line}")
            steps = source.record["steps"]
            sent = hub.send(place, config, f"{source.record['run']}, step {steps:,}", say=lambda line: None)
    return f"step {steps:,}: {sent.files} files to {sent.address}"


def main(words: list[str]) -> None:
    config = configuration(Push, words, "publish.push", "folder=out/runs/NAME/encoder repo=me/name")
    if config:
        os.nice(10)  # training goes before
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            print(f"{now}  {push(config)}")
        except UserError as error:
            raise type(error)(f"{now}  not pushed: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    command(main)
