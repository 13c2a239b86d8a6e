"""What can be set for publishing. Every key, with its default and meaning: `python -m publish --help`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from engine.config.schema import Section

LicenseName = Annotated[str, Field(min_length=1)]


class Licenses(Section):
    """Licences that the run's record does not name, in their own words."""

    model: LicenseName | None = None
    """What is published is given away under it; none: that of the weights it began with, where it began with some."""
    corpus: LicenseName | None = None
    """The training text's, where its source names none (`licence` of a corpus's source)."""
    labels: LicenseName | None = None
    """The labelled rows', likewise."""
    base: LicenseName | None = None
    """That of the weights it began with."""


class Destination(Section):
    """Where on which hub: HF_ENDPOINT names the hub, HF_TOKEN or `hf auth login` says who you are."""

    repo: str
    """OWNER/NAME on the hub; made if it is not there."""
    private: bool = False
    """Whether only its owner may see it; one that is there already must be private then."""
    revision: str = "main"
    """The branch; made from main if it is not there."""
    replace: bool = False
    """Whether a repository that holds something else is overwritten."""


class Publish(Destination):
    """Check a finished run's folder, and send it to a model hub."""

    run: str
    """The run: its folder, or its name in out/runs."""
    adapter: bool = False
    """Whether peft's adapter is published, with what it was trained beside, instead of the merged model."""
    dry_run: bool = False
    """Check, list every file and show the card; nothing is sent, no token is needed."""
    license: Licenses = Licenses()
    """Licences that the record does not name."""
    allow: list[str] = []
    """What is no secret, * standing for anything: paths or a user's name that may stand in what is published."""
