"""Upload a checkpoint's encoder folder to a branch on a model hub while training continues.

    python -m publish.hub.push_checkpoint folder=out/runs/NAME/pushing repo=me/name

Only one push of a folder runs at a time; a second one is skipped. Only the checks that take no time are run.
"""

import os
import time
from pathlib import Path

from engine.cli import parse_config, run_command
from engine.errors import ConfigError, DataError, UserError
from engine.log import get_logger
from engine.system.lock import acquire
from publish.config import Destination, Licenses

logger = get_logger(__name__)


class Push(Destination):
    """Upload the encoder folder of a checkpoint to a model hub."""

    folder: str
    """Encoder folder, as pretraining writes it."""
    private: bool = True
    """Whether the repository is private; an existing one must then be private already."""
    revision: str = "checkpoints"
    """Branch; created from main if missing."""


def push_checkpoint(config: Push) -> str:
    """Upload a checkpoint and return the result in one line.

    Raises ConfigError, DataError and HubError for what the user can fix.
    """
    from publish.hub import upload
    from publish.hub.bundle import assemble, bundle_from_folder
    from publish.hub.checks import check_files, check_front_matter, check_secrets, check_weights

    folder = Path(config.folder)
    if not (folder / "record.json").is_file():
        raise ConfigError(f"{folder}: not an encoder folder, record.json is missing")
    bundle = bundle_from_folder(folder)
    try:
        lock = acquire(folder.parent, ".push.lock")
    except ConfigError:
        return "skipped: another push is running"
    try:
        with assemble(bundle, config.repo, Licenses()) as bundle_folder:
            files = {str(path.relative_to(bundle_folder)): path for path in bundle_folder.rglob("*") if path.is_file()}
            for line in (
                *check_files(files),
                *check_weights(files),
                *check_secrets(files, {config.repo.partition("/")[0]}),
                *check_front_matter(files["README.md"]),
            ):
                raise DataError(f"{folder}: {line}")
            step, run = bundle.record["steps"], bundle.record["run"]
            sent = upload.upload(bundle_folder, config, f"{run}, step {step:,}", print_fn=lambda line: None)
    finally:
        lock.release()
    return f"step {step:,}: {sent.num_changed_files} files to {sent.url}"


def main(args: list[str]) -> None:
    """Push the checkpoint that the command line describes."""
    config = parse_config(Push, args, "publish.hub.push_checkpoint", "folder=out/runs/NAME/encoder repo=me/name")
    if config:
        os.nice(10)  # training has priority
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            logger.info(f"{now}  {push_checkpoint(config)}")
        except UserError as error:
            raise type(error)(f"{now}  not pushed: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run_command(main)
