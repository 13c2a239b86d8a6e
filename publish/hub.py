"""Sending a folder to a hub: one commit, tried again where that can help, and nothing sent that is there already.

Each try begins by comparing what the repository holds with the folder. So the whole can be done any number of times: a
connection that broke half way through the weights, or after the commit, ends as if it had not. (huggingface_hub tries
again only single requests, not creating, committing and tagging; its upload_folder makes several commits.)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

HUB = "https://huggingface.co"
ENDPOINT = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
if ENDPOINT != HUB:  # other hubs speak Git LFS; hf_xet would ask them for a storage that they do not have
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from huggingface_hub import (  # noqa: E402
    CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, logging, set_client_factory)
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError  # noqa: E402
from huggingface_hub.hf_api import RepoFile  # noqa: E402
from huggingface_hub.utils import disable_progress_bars, sha, validate_repo_id  # noqa: E402
from huggingface_hub.utils._http import default_client_factory  # noqa: E402

from engine.errors import ConfigError, HubError, UserError  # noqa: E402
from publish.config import Destination  # noqa: E402

TRIES = 5
AGAIN = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # 409, 412: somebody else changed it in between
LONGEST_WAIT = 600  # seconds that a hub may ask for
SILENT = 120  # seconds without a byte after which a connection is given up
HUBS_OWN = (".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt")  # stay, whatever the folder holds
Answer = TypeVar("Answer")


class Sent(NamedTuple):
    """How it went."""

    address: str
    files: int
    """How many the commit changes; 0: all is there already, and nothing was sent."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def answer_to(error: BaseException):
    """What the hub answered to what failed; None when there was no answer."""
    return next((each.response for each in causes(error) if getattr(each, "response", None) is not None), None)


def explained(error: BaseException, repo: str) -> str:
    """A failure in a line for a person."""
    answer = answer_to(error)
    if answer is None:
        lost = next(each for each in causes(error) if type(each).__module__.startswith("httpx"))
        return f"{ENDPOINT}: the connection failed ({str(lost) or type(lost).__name__})"
    code = answer.status_code
    told = {401: f"{ENDPOINT}: does not know this token; log in with `hf auth login`, or set HF_TOKEN",
            403: f"{repo}: no right to write there; take a name of your own, or a token that may write",
            404: f"{repo}: not found; is {ENDPOINT} a hub, and is the name right?",
            409: f"{repo}: the name is taken, or somebody else is changing it",
            412: f"{repo}: somebody else is changing it",
            429: f"{ENDPOINT}: asks to wait"}
    said = answer.headers.get("X-Error-Message") or str(error).strip().splitlines()[0]
    return f"{told.get(code) or (f'{ENDPOINT}: is in trouble' if code >= 500 else f'{ENDPOINT}: {said}')} ({code})"


def tried(action: Callable[[], Answer], repo: str, say: Callable[[str], None]) -> Answer:
    """What `action` gives; tried again after 1, 2, 4, 8 seconds, or as long as the hub asks, where that can help.

    Raises HubError when it does not.
    """
    number = 0
    while True:
        number += 1
        try:
            return action()
        except UserError:
            raise
        except Exception as error:
            answer = answer_to(error)
            if isinstance(error, ValueError):  # what huggingface_hub makes of metadata or files that the hub refuses
                raise HubError(f"{repo}: {' '.join(str(error).split())}") from None
            if answer is None and not any(type(each).__module__.startswith("httpx") for each in causes(error)):
                raise
            asked = answer.headers.get("Retry-After", "") if answer is not None else ""
            wait = float(asked) if asked.isdigit() else 2.0 ** (number - 1)
            if number == TRIES or wait > LONGEST_WAIT or answer is not None and answer.status_code not in AGAIN:
                raise HubError(explained(error, repo)) from None
            say(f"  {explained(error, repo)}; again in {wait:.0f} s")
            time.sleep(wait)


def client():
    """huggingface_hub's own, but for one thing: it would wait for ever for a hub that has fallen silent."""
    made = default_client_factory()
    made.timeout = SILENT
    return made


def check(repo: str) -> None:
    """Raises ConfigError for a name no hub takes, HubError when nobody is logged in: what can be told without a hub."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"repo: {str(error).rstrip('.')}") from None
    if "/" not in repo:
        raise ConfigError(f"repo: {repo!r} is not OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{ENDPOINT}: not asked, because HF_HUB_OFFLINE is set")
    if not get_token():
        raise HubError(f"{ENDPOINT}: no token; log in with `hf auth login`, or set HF_TOKEN")


def head(api: HfApi, to: Destination) -> str:
    """The newest commit of the branch. The repository and the branch are made if they are not there.

    Raises HubError when the name is taken, or the repository is seen by everybody where only its owner should see it.
    """
    try:
        found = api.repo_info(to.repo)
    except RepositoryNotFoundError as error:
        if answer_to(error).status_code != 404:
            raise
        try:
            api.create_repo(to.repo, private=to.private)
        except Exception as refused:
            answer = answer_to(refused)
            if answer is not None and answer.status_code == 409:
                raise HubError(f"{to.repo}: the name is taken; publish under another one (409)") from None
            raise
        found = api.repo_info(to.repo)
    if to.private and not found.private:
        raise HubError(f"{to.repo}: is there already and everybody sees it, while private=true was asked for")
    try:
        return api.repo_info(to.repo, revision=to.revision).sha
    except RevisionNotFoundError:
        api.create_branch(to.repo, branch=to.revision, exist_ok=True)
        return api.repo_info(to.repo, revision=to.revision).sha


def is_same(path: Path, there: RepoFile) -> bool:
    """Whether a file is what the repository holds."""
    if path.stat().st_size != there.size:
        return False
    with open(path, "rb") as file:
        return sha.sha_fileobj(file).hex() == there.lfs.sha256 if there.lfs else sha.git_hash(file.read()) == there.blob_id


def differences(folder: Path, api: HfApi, to: Destination,
                commit: str) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold what the folder holds. Raises HubError when it holds something else by now."""
    there = {entry.path: entry for entry in api.list_repo_tree(to.repo, recursive=True, revision=commit)
             if isinstance(entry, RepoFile) and entry.path not in HUBS_OWN}
    if there.keys() - {"README.md"} and "record.json" not in there and not to.replace:
        raise HubError(f"{to.repo}: the name is taken; {len(there)} files are there that were not published from here"
                       " (replace=true overwrites them)")
    own = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [*(CommitOperationDelete(name) for name in sorted(there.keys() - own.keys())),
            *(CommitOperationAdd(name, path) for name, path in own.items()
              if name not in there or not is_same(path, there[name]))]


def send(folder: Path, to: Destination, message: str, tag: str | None = None, say: Callable[[str], None] = print) -> Sent:
    """Make the branch hold what the folder holds, by one commit; tag: of the first commit that did.

    Raises ConfigError and HubError, when nothing of it can be seen in the repository.
    """
    check(to.repo)
    set_client_factory(client)
    logging.set_verbosity_error()
    if not sys.stdout.isatty():
        disable_progress_bars()
    api = HfApi(endpoint=ENDPOINT)

    def once() -> int:
        commit = head(api, to)
        if changed := differences(folder, api, to, commit):
            sent = [each.upload_info.size for each in changed if isinstance(each, CommitOperationAdd)]
            removed = f", {len(changed) - len(sent)} to remove" * (len(sent) < len(changed))
            say(f"  {to.repo}: {len(sent)} files to send, {sum(sent) / 1e6:,.1f} MB{removed}")
            commit = api.create_commit(to.repo, changed, commit_message=message, revision=to.revision,
                                       parent_commit=commit).oid
        if tag and tag not in {each.name for each in api.list_repo_refs(to.repo).tags}:
            api.create_tag(to.repo, tag=tag, revision=commit, exist_ok=True)
        return len(changed)

    files = tried(once, to.repo, say)
    return Sent(f"{ENDPOINT}/{to.repo}" + (f"/tree/{to.revision}" if to.revision != "main" else ""), files)
