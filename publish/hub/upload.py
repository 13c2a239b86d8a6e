"""Upload a folder to a hub in one commit, with retries, sending only what the repository lacks.

Each attempt starts by comparing the repository with the folder, so uploading is idempotent: it can be repeated after a
connection that broke halfway through the weights, or after the commit. (huggingface_hub retries single requests, but
not creating, committing and tagging; its upload_folder makes several commits.)
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, logging
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars, sha, validate_repo_id

from engine.errors import ConfigError, HubError, UserError
from engine.hub_client import use_checked_client
from publish.config import Destination

DEFAULT_ENDPOINT = "https://huggingface.co"
ENDPOINT = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
if ENDPOINT != DEFAULT_ENDPOINT and "HF_HUB_DISABLE_XET" not in os.environ:
    constants.HF_HUB_DISABLE_XET = True  # other hubs use Git LFS; hf_xet would ask them for a storage that they lack
MAX_ATTEMPTS = 5
RETRY_STATUS_CODES = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # 409, 412: a concurrent change
PROTECTED_FILES = (".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt")  # never removed from a repository
ReturnType = TypeVar("ReturnType")


class UploadResult(NamedTuple):
    """Result of an upload."""

    url: str
    num_changed_files: int
    """Files that the commit changes; 0: the repository was up to date and nothing was sent."""


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_response(error: BaseException):
    """Return the hub's response to the request that failed; None if there was none."""
    return next((cause.response for cause in error_chain(error) if getattr(cause, "response", None) is not None), None)


def is_network_error(error: BaseException) -> bool:
    """Return whether the HTTP client raised an error itself."""
    return type(error).__module__.startswith("httpx")


def describe_error(error: BaseException, repo: str) -> str:
    """Describe a failure in one line."""
    response = error_response(error)
    if response is None:
        cause = next(filter(is_network_error, error_chain(error)))
        return f"{ENDPOINT}: the connection failed ({str(cause) or type(cause).__name__})"
    code = response.status_code
    messages = {
        401: f"{ENDPOINT}: unknown token; log in with `hf auth login`, or set HF_TOKEN",
        403: f"{repo}: no permission to write; use a namespace of your own, or a token with write access",
        404: f"{repo}: not found; is {ENDPOINT} a hub, and is the name correct?",
        409: f"{repo}: the name is taken, or a concurrent change is in progress",
        412: f"{repo}: changed by a concurrent commit",
        429: f"{ENDPOINT}: too many requests",
    }
    detail = response.headers.get("X-Error-Message") or str(error).strip().splitlines()[0]
    other = f"{ENDPOINT}: {'server error' if code >= 500 else detail}"
    return f"{messages.get(code, other)} ({code})"


def with_retries(action: Callable[[], ReturnType], repo: str, print_fn: Callable[[str], None]) -> ReturnType:
    """Run `action`; retry what may be temporary after 1, 2, 4 and 8 seconds, or as long as the hub asks.

    Raises HubError if it fails for good.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, ValueError):  # huggingface_hub's error for metadata or files that the hub rejects
                raise HubError(f"{repo}: {' '.join(str(error).split())}") from None
            response = error_response(error)
            if response is None and not any(map(is_network_error, error_chain(error))):
                raise
            # `engine.hub_client` has removed what is no number of seconds, or too long.
            retry_after = None if response is None else response.headers.get("Retry-After")
            wait = float(retry_after) if retry_after else 2.0 ** (attempt - 1)
            is_temporary = response is None or response.status_code in RETRY_STATUS_CODES
            if attempt == MAX_ATTEMPTS or not is_temporary:
                raise HubError(describe_error(error, repo)) from None
            print_fn(f"  {describe_error(error, repo)}; retrying in {wait:.0f} s")
            time.sleep(wait)


def check_access(repo: str) -> None:
    """Check the repository's name and the login without a request. Raises ConfigError and HubError."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"repo: {str(error).rstrip('.')}") from None
    if "/" not in repo:
        raise ConfigError(f"repo: {repo!r} is not OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{ENDPOINT}: not contacted, because HF_HUB_OFFLINE is set")
    if not get_token():
        raise HubError(f"{ENDPOINT}: no token; log in with `hf auth login`, or set HF_TOKEN")


def ensure_branch(api: HfApi, destination: Destination) -> str:
    """Return the newest commit of the branch; create the repository and the branch if missing.

    Raises HubError if the name is taken, or if the repository is public but should be private.
    """
    repo = destination.repo
    try:
        info = api.repo_info(repo)
    except RepositoryNotFoundError as error:
        if error_response(error).status_code != 404:
            raise
        try:
            api.create_repo(repo, private=destination.private)
        except Exception as create_error:
            response = error_response(create_error)
            if response is not None and response.status_code == 409:
                raise HubError(f"{repo}: the name is taken; choose another one (409)") from None
            raise
        info = api.repo_info(repo)
    if destination.private and not info.private:
        raise HubError(f"{repo}: exists and is public, but private=true is set")
    try:
        return api.repo_info(repo, revision=destination.revision).sha
    except RevisionNotFoundError:
        api.create_branch(repo, branch=destination.revision, exist_ok=True)
        return api.repo_info(repo, revision=destination.revision).sha


def is_unchanged(path: Path, remote_file: RepoFile) -> bool:
    """Return whether a file is the one in the repository."""
    if path.stat().st_size != remote_file.size:
        return False
    with open(path, "rb") as file:
        if remote_file.lfs:
            return sha.sha_fileobj(file).hex() == remote_file.lfs.sha256
        return sha.git_hash(file.read()) == remote_file.blob_id


def commit_operations(
    folder: Path, api: HfApi, destination: Destination, commit: str
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the changes that make the repository equal to the folder. Raises HubError if it holds something else."""
    remote = {
        entry.path: entry
        for entry in api.list_repo_tree(destination.repo, recursive=True, revision=commit)
        if isinstance(entry, RepoFile)
    }
    removable = remote.keys() - set(PROTECTED_FILES)
    if removable - {"README.md"} and "record.json" not in remote and not destination.replace:
        raise HubError(
            f"{destination.repo}: the name is taken; it holds {len(removable)} files that were not published from here"
            " (replace=true overwrites them)"
        )
    local = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    changed = [name for name, path in local.items() if name not in remote or not is_unchanged(path, remote[name])]
    return [
        *(CommitOperationDelete(name) for name in sorted(removable - local.keys())),
        *(CommitOperationAdd(name, local[name]) for name in changed),
    ]


def upload(
    folder: Path,
    destination: Destination,
    commit_message: str,
    tag: str | None = None,
    print_fn: Callable[[str], None] = print,
) -> UploadResult:
    """Make the branch equal to the folder in one commit; tag: name for the first commit that did.

    Raises ConfigError and HubError, also if the hub does not have the files after it has accepted the commit.
    """
    repo, revision = destination.repo, destination.revision
    check_access(repo)
    use_checked_client()
    logging.set_verbosity_error()
    if not sys.stdout.isatty():
        disable_progress_bars()
    api = HfApi(endpoint=ENDPOINT)

    def attempt() -> int:
        commit = ensure_branch(api, destination)
        if operations := commit_operations(folder, api, destination, commit):
            sizes = [change.upload_info.size for change in operations if isinstance(change, CommitOperationAdd)]
            removed = f", {len(operations) - len(sizes)} to remove" * (len(sizes) < len(operations))
            print_fn(f"  {repo}: {len(sizes)} files to upload, {sum(sizes) / 1e6:,.1f} MB{removed}")
            commit = api.create_commit(
                repo, operations, commit_message=commit_message, revision=revision, parent_commit=commit
            ).oid
            head = api.repo_info(repo, revision=revision).sha
            if missing := commit_operations(folder, api, destination, head):
                names = ", ".join(change.path_in_repo for change in missing[:3])
                raise HubError(f"{repo}: the hub accepted the commit, but does not have it ({names})")
        if tag and tag not in {reference.name for reference in api.list_repo_refs(repo).tags}:
            api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)
        return len(operations)

    num_changed_files = with_retries(attempt, repo, print_fn)
    return UploadResult(f"{ENDPOINT}/{repo}" + f"/tree/{revision}" * (revision != "main"), num_changed_files)
