"""The files of a configuration as text, within bounds: from a directory, or from a service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gce_backend.base.errors import UnusableFileError
from gce_backend.configuration.text import decoded
from gce_backend.configuration.types import TEMPLATES_FILE

MAX_FILE_BYTES = 2**20
"""Most bytes in one file: more cannot be stored, whatever the content."""


def text_of(name: str, content: bytes) -> str:
    """A file's text.

    Args:
        name: the file's name.
        content: its bytes; MAX_FILE_BYTES + 1 of them are enough to show that it is too large.

    Raises:
        UnusableFileError: it is too large, or not UTF-8.
    """
    if len(content) > MAX_FILE_BYTES:
        raise UnusableFileError(name, f"is too large: use at most {MAX_FILE_BYTES} bytes")
    try:
        return decoded(content)
    except ValueError as error:
        raise UnusableFileError(name, str(error)) from None


def read_text(directory: Path, name: str) -> str | None:
    """The text of a file in a directory; None when the directory has no such file.

    Args:
        directory: the configuration's directory.
        name: the file's path in it. A path that leads out of the directory counts as missing.

    Raises:
        UnusableFileError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        root = directory.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}: make it readable"
        raise UnusableFileError(name, problem) from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name; links in a circle
        raise UnusableFileError(name, f"cannot be read: {error}") from error
    return text_of(name, content)


def required_text(directory: Path, name: str) -> str:
    """The text of a file that a configuration must have.

    Raises:
        UnusableFileError: it is missing, cannot be read, is too large, or is not UTF-8.
    """
    text = read_text(directory, name)
    if text is None:
        raise UnusableFileError(name, f"is missing in {directory}: add the file")
    return text


def check_total(files: Mapping[str, str]) -> None:
    """Stops the reading of files that cannot be stored together.

    Raises:
        UnusableFileError: they are too large in all.
    """
    if sum(map(len, files.values())) > MAX_FILE_BYTES:
        raise UnusableFileError(
            TEMPLATES_FILE, f"names files of more than {MAX_FILE_BYTES} bytes in all: name fewer"
        )
