"""Checks a configuration that lies in a directory, as `gce-backend validate` does."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from gce_backend.configuration.parsing import MAX_CONFIG_BYTES, examine, referenced_files
from gce_backend.configuration.problems import MAX_LISTED, Problem
from gce_backend.configuration.text import decoded
from gce_backend.configuration.types import MANAGERS_FILE, TEMPLATES_FILE
from gce_backend.configuration.values import MAX_METADATA_VALUE


class Verdict(msgspec.Struct, frozen=True):
    """What the daemon would say to a configuration.

    Attributes:
        problems: the first of what keeps it from being used, in the order of the files.
        warnings: the first of what may be a mistake; it is used all the same.
        total: how many problems there are.
    """

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    total: int = 0


def check_directory(path: Path, extra_dimensions: Collection[str] = ()) -> Verdict:
    """Validates the configuration in a directory.

    Args:
        path: the directory that holds templates.cfg, managers.cfg and the files they name.
        extra_dimensions: dimensions that the settings allow.
    """
    if not path.is_dir():
        message = "there is no such directory: name another one"
        return Verdict((Problem(str(path), None, "", "", message),), total=1)
    problems: list[Problem] = []
    templates = _read(path, TEMPLATES_FILE, MAX_CONFIG_BYTES, problems)
    managers = _read(path, MANAGERS_FILE, MAX_CONFIG_BYTES, problems)
    if problems:
        return Verdict(tuple(problems), total=len(problems))
    files = {
        name: _read(path, name, MAX_METADATA_VALUE, problems)
        for name in referenced_files(templates)
        if (path / name).exists()  # `parse` reports missing ones, with the line that names them
    }
    found = examine(templates, managers, files, extra_dimensions)
    return Verdict(
        (*problems, *found.problems)[:MAX_LISTED],
        found.configuration.warnings[:MAX_LISTED],
        len(problems) + found.total,
    )


def _read(directory: Path, name: str, limit: int, problems: list[Problem]) -> str:
    """The file's text, or "" and a problem."""
    try:
        with (directory / name).open("rb") as file:
            content = file.read(limit + 1)
        text = "" if len(content) > limit else decoded(content)
    except OSError as error:
        message = f"cannot be read: {error.strerror}: add the file, or make it readable"
    except ValueError as error:
        message = str(error)
    else:
        if len(content) <= limit:
            return text
        message = f"is too large: use at most {limit} bytes"
    problems.append(Problem(name, None, "", "", message))
    return ""
