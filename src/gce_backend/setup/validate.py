"""Checks a configuration that lies in a directory, as `gce-backend validate` does."""

from __future__ import annotations

from pathlib import Path

from gce_backend.configuration.parsing import parse, referenced_files
from gce_backend.configuration.problems import InvalidConfigurationError, Problem
from gce_backend.configuration.types import MANAGERS_FILE, TEMPLATES_FILE
from gce_backend.configuration.values import MAX_METADATA_VALUE

MAX_CONFIG_BYTES = 512 * 1024
"""Bytes in templates.cfg or managers.cfg: one Datastore entity of at most 1 MiB holds both."""


def check_directory(path: Path) -> list[Problem]:
    """Validates the configuration in a directory.

    Args:
        path: the directory that holds templates.cfg, managers.cfg and the files they name.

    Returns:
        Every problem, in the order of the files; none when the daemon would accept it.
    """
    if not path.is_dir():
        return [Problem(str(path), None, "", "", "there is no such directory: name another one")]
    problems: list[Problem] = []
    templates = _read(path, TEMPLATES_FILE, MAX_CONFIG_BYTES, problems)
    managers = _read(path, MANAGERS_FILE, MAX_CONFIG_BYTES, problems)
    if problems:
        return problems
    files = {
        name: _read(path, name, MAX_METADATA_VALUE, problems)
        for name in referenced_files(templates)
        if (path / name).exists()  # `parse` reports missing ones, with the line that names them
    }
    try:
        parse(templates, managers, files)
    except InvalidConfigurationError as error:
        problems += error.problems
    return problems


def _read(directory: Path, name: str, limit: int, problems: list[Problem]) -> str:
    """The file's text, or "" and a problem."""
    try:
        with (directory / name).open("rb") as file:
            content = file.read(limit + 1)
        text = content.decode()
    except OSError as error:
        message = f"cannot be read: {error.strerror}: add the file, or make it readable"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 at byte {error.start}: save it as UTF-8"
    else:
        if len(content) <= limit:
            return text
        message = f"is too large: use at most {limit} bytes"
    problems.append(Problem(name, None, "", "", message))
    return ""
