"""Configuration of publishing. For every key with its default and meaning, run `python -m publish --help`."""

from typing import Annotated

from pydantic import Field

from engine.config.schema import Section

LicenseName = Annotated[str, Field(min_length=1)]


class Licenses(Section):
    """Licenses that the run's record does not name."""

    model: LicenseName | None = None
    """License of what is published; none: that of the initial weights, if there were any."""
    corpus: LicenseName | None = None
    """License of the training text, if its source names none (`license` of a corpus's source)."""
    labels: LicenseName | None = None
    """License of the labeled examples, if their source names none."""
    base: LicenseName | None = None
    """License of the initial weights, if they name none."""


class Destination(Section):
    """Repository on the Hub (or a mirror, set by HF_ENDPOINT); HF_TOKEN or `hf auth login` sets the account."""

    repo: str
    """OWNER/NAME on the Hub; created if missing."""
    private: bool = False
    """Whether the repository is private; an existing one must then be private already."""
    revision: str = "main"
    """Branch; created from main if missing."""
    replace: bool = False
    """Whether to overwrite a repository that holds something else."""


class Publish(Destination):
    """Check a finished run and upload it to the Hub."""

    run: str
    """Run: its folder, or its name in out/runs."""
    adapter: bool = False
    """Whether to publish the PEFT adapter and its base model instead of the merged model."""
    dry_run: bool = False
    """Whether to only run the checks, list the files and print the card; needs no token."""
    license: Licenses = Licenses()
    """Licenses that the record does not name."""
    allow: list[str] = []
    """Paths and user names that may appear in what is published; * matches anything."""
