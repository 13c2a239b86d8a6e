"""A checkpoint's encoder folder sent to a branch of a hub while training goes on:

    python -m publish.hub.push_checkpoint folder=out/runs/NAME/pushing repo=me/name

Two never run at once for a folder: the second leaves it to the next one. What is checked is what takes no time.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from engine.cli import parse_config, run_command
from engine.errors import ConfigError, DataError, UserError
from publish.config import Destination, Licenses


class Push(Destination):
    """Send the encoder folder of a checkpoint to a model hub."""

    folder: str
    """The folder, as pretraining writes it."""
    private: bool = True
    """Whether only its owner may see it; one that is there already must be private then."""
    revision: str = "checkpoints"
    """The branch; made from main if it is not there."""


def push_checkpoint(config: Push) -> str:
    """What became of it, in a line. Raises ConfigError, DataError and HubError for what a person can put right."""
    from publish.hub import upload
    from publish.hub.bundle import assemble, bundle_from_folder
    from publish.hub.checks import check_files, check_front_matter, check_secrets, check_weights

    folder = Path(config.folder)
    if not (folder / "record.json").is_file():
        raise ConfigError(f"{folder}: no encoder folder, there is no record.json in it")
    source = bundle_from_folder(folder)
    with open(folder.parent / ".push.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "left to the next one: another push is under way"
        with assemble(source, config.repo, Licenses()) as place:
            files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
            for line in (
                *check_files(files),
                *check_weights(files),
                *check_secrets(files, {config.repo.partition("/")[0]}),
                *check_front_matter(files["README.md"]),
            ):
                raise DataError(f"{folder}: {line}")
            steps = source.record["steps"]
            sent = upload.upload(place, config, f"{source.record['run']}, step {steps:,}", print_fn=lambda line: None)
    return f"step {steps:,}: {sent.num_changed_files} files to {sent.url}"


def main(args: list[str]) -> None:
    config = parse_config(Push, args, "publish.hub.push_checkpoint", "folder=out/runs/NAME/encoder repo=me/name")
    if config:
        os.nice(10)  # training goes before
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            print(f"{now}  {push_checkpoint(config)}")
        except UserError as error:
            raise type(error)(f"{now}  not pushed: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run_command(main)
