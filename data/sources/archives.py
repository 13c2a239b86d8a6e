"""Files at local paths, at fsspec addresses, and inside zip archives, by addresses zip://MEMBER::ARCHIVE."""

import fnmatch
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from engine.errors import DataError, OptionError, TransferError, first_line, suggest

PREFIX, SEPARATOR = "zip://", "::"


def name_inside(path: str) -> str:
    """Return the path of a file inside its archive, or the path itself."""
    return path.removeprefix(PREFIX).partition(SEPARATOR)[0] if path.startswith(PREFIX) else path


def archive_of(path: str) -> str:
    """Return the path of the archive that a file is in, or the path itself."""
    return path.partition(SEPARATOR)[2] if path.startswith(PREFIX) else path


@contextmanager
def transfer(path: str) -> Iterator[None]:
    """Raise TransferError for what fails on the way, but FileNotFoundError as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # each file system has types of its own
        raise TransferError(f"{path}: the transfer failed ({first_line(error)}); run the command again") from None


class RemoteFile(io.RawIOBase):
    """A file at an fsspec address. A read that fails raises TransferError, or the file would count as damaged."""

    def __init__(self, path: str):
        import fsspec

        self.path = path
        with transfer(path):
            self.file = fsspec.open(path, "rb").open()

    def readable(self) -> bool:
        """Return True, as io.BufferedReader requires."""
        return True

    def seekable(self) -> bool:
        """Return whether the file system can start anywhere in a file."""
        return self.file.seekable()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, or all that are left."""
        with transfer(self.path):
            return self.file.read(size)

    def readinto(self, buffer) -> int:
        """Fill `buffer` and return the number of bytes read."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position and return it."""
        with transfer(self.path):
            return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.file.close()
        super().close()


def open_raw(path: str) -> io.IOBase:
    """Open a file as bytes.

    Raises DataError for one that an archive cannot give, as without its password, and TransferError for one that
    cannot be reached.
    """
    if path.startswith(PREFIX):
        archive = open_raw(archive_of(path))
        try:
            return zipfile.ZipFile(archive).open(name_inside(path))
        except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    return RemoteFile(path) if "://" in path else open(path, "rb")


def file_size(path: str) -> int:
    """Return the size of a file in bytes, uncompressed inside an archive."""
    if path.startswith(PREFIX):
        with open_raw(archive_of(path)) as stream, zipfile.ZipFile(stream) as archive:
            return archive.getinfo(name_inside(path)).file_size
    if "://" not in path:
        return os.path.getsize(path)
    import fsspec

    with transfer(path):
        filesystem, inside = fsspec.core.url_to_fs(path)
        return filesystem.size(inside) or 0


def list_members(path: str, member: str | None, is_readable: Callable[[str], bool]) -> list[str]:
    """Return the addresses of the files of an archive to read.

    member: a path or glob inside it; none: the only readable file. Raises OptionError naming the files if several are,
    and DataError if none is.
    """
    try:
        with open_raw(path) as stream, zipfile.ZipFile(stream) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    visible = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    if member:
        chosen = [member] if member in names else fnmatch.filter(visible, member)
        if not chosen:
            raise DataError(f"{path}: no {member} inside{suggest(member, visible)}")
    else:
        chosen = list(filter(is_readable, visible))
        if len(chosen) != 1:
            found = f"{len(chosen)} files that can be read" if chosen else "no file with a known extension"
            shown = ", ".join((chosen or visible)[:5]) + ", ..." * (len(chosen or visible) > 5)
            # Files of plain text are one corpus; tables may be splits.
            is_plain = {PurePosixPath(name).suffix for name in chosen} in ({".txt"}, {".md"})
            suggestion = f"*{PurePosixPath(chosen[0]).suffix}" if is_plain else (chosen or ["NAME"])[0]
            raise OptionError(f"{path}: {found} inside ({shown})", "member", suggestion)
    return [f"{PREFIX}{name}{SEPARATOR}{path}" for name in sorted(chosen)]
