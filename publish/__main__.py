"""`python -m publish run=out/runs/NAME repo=OWNER/NAME`: check a finished run and upload it to a model hub."""

import shlex
from pathlib import Path

from engine.cli import parse_config, run_command
from engine.errors import DataError, HubError
from engine.log import get_logger
from publish.config import Publish

logger = get_logger(__name__)

EXAMPLE = "run=out/runs/default repo=me/reviews license.corpus=unknown"


def list_files(folder: Path) -> str:
    """List every file with its size."""
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    lines = [f"  {size:>14,}  {path.relative_to(folder)}" for path, size in sizes.items()]
    return "\n".join([*lines, f"  {sum(sizes.values()):>14,}  bytes in {len(sizes)} files"])


def publish(config: Publish) -> None:
    """Check a run, then upload it. Raises ConfigError, DataError and HubError for what the user can fix."""
    from publish.card.card import record_fingerprint
    from publish.hub import upload  # slow to import, and reads HF_ENDPOINT
    from publish.hub.bundle import assemble, find_bundle
    from publish.hub.checks import run_checks

    bundle = find_bundle(config.run, config.adapter, config.allow)
    if not config.dry_run:
        upload.check_access(config.repo)
    sample_path, lines = bundle.run_folder / "sample.json", [f"{bundle.folder} as {config.repo}"]
    if bundle.num_redacted_paths:
        lines.append(f"  record.json: shortened {bundle.num_redacted_paths} local paths")
    if bundle.study_folder:
        lines.append(f"  results: including the study {bundle.study_folder}")
    if not sample_path.is_file():
        lines.append(f"  {sample_path}: missing, outputs are not verified (the run is from an older version)")
    logger.info("\n".join(lines))
    with assemble(bundle, config.repo, config.license) as folder:
        problems = run_checks(folder, sample_path, config.repo.partition("/")[0], config.license, config.allow)
        if problems:
            raise DataError("\n".join(f"{config.run}: {line}" for line in problems) + "\nNothing was uploaded.")
        verified = " and reproduces the recorded outputs" * sample_path.is_file()
        logger.info(f"  checked: loads with transformers alone{verified}")
        if config.dry_run:
            logger.info(f"\n{list_files(folder)}\n\n{(folder / 'README.md').read_text(encoding='utf-8')}")
            return
        tag = f"run-{record_fingerprint(bundle.record)}"
        sent = upload.upload(folder, config, f"Publish {bundle.run_folder.name}", tag)
    files = (
        f"{sent.num_changed_files} files in one commit" if sent.num_changed_files else "unchanged, nothing to upload"
    )
    logger.info(f"  {files}\n\n  published  {sent.url}")


def main(args: list[str]) -> None:
    """Publish the run that the command line describes."""
    config = parse_config(Publish, args, "publish", EXAMPLE)
    if config:
        try:
            publish(config)
        except HubError as error:
            command = shlex.join(["python", "-m", "publish", *args])
            raise HubError(
                f"{error}\nThe run is unchanged, and files already uploaded are kept. Retry: {command}"
            ) from None


if __name__ == "__main__":
    run_command(main)
