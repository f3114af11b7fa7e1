"""Checks the configuration in a directory, as `gce-backend validate` does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec

from gce_backend.base.errors import UnusableFileError
from gce_backend.clients.config_files import read_text, required_text
from gce_backend.configuration.parsing import examine, referenced_files
from gce_backend.configuration.problems import MAX_LISTED, Problem
from gce_backend.configuration.types import MANAGERS_FILE, TEMPLATES_FILE


class Verdict(msgspec.Struct, frozen=True):
    """The result of checking a configuration.

    Attributes:
        problems: the first problems, which keep it from being used, in the order of the files.
        warnings: the first possible mistakes; the configuration is used all the same.
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
    templates = _text(problems, partial(required_text, path, TEMPLATES_FILE))
    managers = _text(problems, partial(required_text, path, MANAGERS_FILE))
    if templates is None or managers is None:
        return Verdict(tuple(problems), total=len(problems))
    read = {
        name: _text(problems, partial(read_text, path, name))
        for name in referenced_files(templates)
    }
    told = {problem.file for problem in problems}
    # `examine` reports missing files, with the line that names them.
    files = {name: text or "" for name, text in read.items() if text is not None or name in told}
    found = examine(templates, managers, files, extra_dimensions)
    return Verdict(
        (*problems, *found.problems)[:MAX_LISTED],
        found.configuration.warnings[:MAX_LISTED],
        len(problems) + found.total,
    )


def _text(problems: list[Problem], read: Callable[[], str | None]) -> str | None:
    """What `read` reads; None, and a problem, when the file cannot be used."""
    try:
        return read()
    except UnusableFileError as error:
        problems.append(Problem(error.file, None, "", "", error.problem))
        return None
