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

DEFAULT_ENDPOINT = "https://huggingface.co"
ENDPOINT = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
if ENDPOINT != DEFAULT_ENDPOINT:  # other hubs speak Git LFS; hf_xet would ask them for a storage that they do not have
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from huggingface_hub import (  # noqa: E402
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    logging,
    set_client_factory,
)
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError  # noqa: E402
from huggingface_hub.hf_api import RepoFile  # noqa: E402
from huggingface_hub.utils import disable_progress_bars, sha, validate_repo_id  # noqa: E402
from huggingface_hub.utils._http import default_client_factory  # noqa: E402

from engine.errors import ConfigError, HubError, UserError  # noqa: E402
from publish.config import Destination  # noqa: E402

MAX_ATTEMPTS = 5
RETRY_STATUS_CODES = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # 409, 412: somebody else changed it in between
MAX_RETRY_AFTER = 600  # seconds that a hub may ask for
TIMEOUT = 120  # seconds without a byte after which a connection is given up
PROTECTED_FILES = (".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt")  # stay, whatever the folder holds
ReturnType = TypeVar("Answer")


class UploadResult(NamedTuple):
    """How it went."""

    url: str
    num_changed_files: int
    """How many the commit changes; 0: all is there already, and nothing was sent."""


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_response(error: BaseException):
    """What the hub answered to what failed; None when there was no answer."""
    return next((each.response for each in error_chain(error) if getattr(each, "response", None) is not None), None)


def describe_error(error: BaseException, repo: str) -> str:
    """A failure in a line for a person."""
    answer = error_response(error)
    if answer is None:
        lost = next(each for each in error_chain(error) if type(each).__module__.startswith("httpx"))
        return f"{ENDPOINT}: the connection failed ({str(lost) or type(lost).__name__})"
    code = answer.status_code
    told = {
        401: f"{ENDPOINT}: does not know this token; log in with `hf auth login`, or set HF_TOKEN",
        403: f"{repo}: no right to write there; take a name of your own, or a token that may write",
        404: f"{repo}: not found; is {ENDPOINT} a hub, and is the name right?",
        409: f"{repo}: the name is taken, or somebody else is changing it",
        412: f"{repo}: somebody else is changing it",
        429: f"{ENDPOINT}: asks to wait",
    }
    said = answer.headers.get("X-Error-Message") or str(error).strip().splitlines()[0]
    return f"{told.get(code) or (f'{ENDPOINT}: is in trouble' if code >= 500 else f'{ENDPOINT}: {said}')} ({code})"


def with_retries(action: Callable[[], ReturnType], repo: str, print_fn: Callable[[str], None]) -> ReturnType:
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
            answer = error_response(error)
            if isinstance(error, ValueError):  # what huggingface_hub makes of metadata or files that the hub refuses
                raise HubError(f"{repo}: {' '.join(str(error).split())}") from None
            if answer is None and not any(type(each).__module__.startswith("httpx") for each in error_chain(error)):
                raise
            asked = answer.headers.get("Retry-After", "") if answer is not None else ""
            wait = float(asked) if asked.isdigit() else 2.0 ** (number - 1)
            if (
                number == MAX_ATTEMPTS
                or wait > MAX_RETRY_AFTER
                or answer is not None
                and answer.status_code not in RETRY_STATUS_CODES
            ):
                raise HubError(describe_error(error, repo)) from None
            print_fn(f"  {describe_error(error, repo)}; again in {wait:.0f} s")
            time.sleep(wait)


def make_client():
    """huggingface_hub's own, but for one thing: it would wait for ever for a hub that has fallen silent."""
    made = default_client_factory()
    made.timeout = TIMEOUT
    return made


def check_access(repo: str) -> None:
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


def ensure_branch(api: HfApi, destination: Destination) -> str:
    """The newest commit of the branch. The repository and the branch are made if they are not there.

    Raises HubError when the name is taken, or the repository is seen by everybody where only its owner should see it.
    """
    try:
        found = api.repo_info(destination.repo)
    except RepositoryNotFoundError as error:
        if error_response(error).status_code != 404:
            raise
        try:
            api.create_repo(destination.repo, private=destination.private)
        except Exception as refused:
            answer = error_response(refused)
            if answer is not None and answer.status_code == 409:
                raise HubError(f"{destination.repo}: the name is taken; publish under another one (409)") from None
            raise
        found = api.repo_info(destination.repo)
    if destination.private and not found.private:
        raise HubError(f"{destination.repo}: is there already and everybody sees it, while private=true was asked for")
    try:
        return api.repo_info(destination.repo, revision=destination.revision).sha
    except RevisionNotFoundError:
        api.create_branch(destination.repo, branch=destination.revision, exist_ok=True)
        return api.repo_info(destination.repo, revision=destination.revision).sha


def is_unchanged(path: Path, remote_file: RepoFile) -> bool:
    """Whether a file is what the repository holds."""
    if path.stat().st_size != remote_file.size:
        return False
    with open(path, "rb") as file:
        return (
            sha.sha_fileobj(file).hex() == remote_file.lfs.sha256
            if remote_file.lfs
            else sha.git_hash(file.read()) == remote_file.blob_id
        )


def commit_operations(
    folder: Path, api: HfApi, destination: Destination, commit: str
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold what the folder holds. Raises HubError when it holds something else by now."""
    there = {
        entry.path: entry
        for entry in api.list_repo_tree(destination.repo, recursive=True, revision=commit)
        if isinstance(entry, RepoFile) and entry.path not in PROTECTED_FILES
    }
    if there.keys() - {"README.md"} and "record.json" not in there and not destination.replace:
        raise HubError(
            f"{destination.repo}: the name is taken; {len(there)} files are there that were not published from here"
            " (replace=true overwrites them)"
        )
    own = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        *(CommitOperationDelete(name) for name in sorted(there.keys() - own.keys())),
        *(
            CommitOperationAdd(name, path)
            for name, path in own.items()
            if name not in there or not is_unchanged(path, there[name])
        ),
    ]


def upload(
    folder: Path,
    destination: Destination,
    commit_message: str,
    tag: str | None = None,
    print_fn: Callable[[str], None] = print,
) -> UploadResult:
    """Make the branch hold what the folder holds, by one commit; tag: of the first commit that did.

    Raises ConfigError and HubError, when nothing of it can be seen in the repository.
    """
    check_access(destination.repo)
    set_client_factory(make_client)
    logging.set_verbosity_error()
    if not sys.stdout.isatty():
        disable_progress_bars()
    api = HfApi(endpoint=ENDPOINT)

    def once() -> int:
        commit = ensure_branch(api, destination)
        if changed := commit_operations(folder, api, destination, commit):
            sent = [each.upload_info.size for each in changed if isinstance(each, CommitOperationAdd)]
            removed = f", {len(changed) - len(sent)} to remove" * (len(sent) < len(changed))
            print_fn(f"  {destination.repo}: {len(sent)} files to send, {sum(sent) / 1e6:,.1f} MB{removed}")
            commit = api.create_commit(
                destination.repo,
                changed,
                commit_message=commit_message,
                revision=destination.revision,
                parent_commit=commit,
            ).oid
        if tag and tag not in {each.name for each in api.list_repo_refs(destination.repo).tags}:
            api.create_tag(destination.repo, tag=tag, revision=commit, exist_ok=True)
        return len(changed)

    files = with_retries(once, destination.repo, print_fn)
    return UploadResult(
        f"{ENDPOINT}/{destination.repo}" + (f"/tree/{destination.revision}" if destination.revision != "main" else ""),
        files,
    )
