"""A configuration in a directory, as `gce-backend validate` checks it; the example fleet first."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.clients.config_files import MAX_FILE_BYTES
from gce_backend.configuration.parsing import MAX_CONFIG_BYTES, parse, referenced_files
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.values import MAX_METADATA_VALUE
from gce_backend.setup.validate import Verdict, check_directory
from support.config_texts import (
    manager,
    template,
)

ROOT = Path(__file__).parents[3]


def test_example_fleet_is_valid() -> None:
    """config/ holds 3 templates and 4 managers with 12 machines, and teaches by being right."""
    directory = ROOT / "config"
    assert check_directory(directory) == Verdict()
    templates = (directory / "templates.cfg").read_text()
    files = {path: (directory / path).read_text() for path in referenced_files(templates)}
    config = parse(templates, (directory / "managers.cfg").read_text(), files)
    assert (len(config.templates), len(config.managers), config.minimum_total) == (3, 4, 12)
    assert {template.project for template in config.templates} == {"local-project"}
    assert files


def write(directory: Path, **files: bytes | str) -> Path:
    """Writes files whose names have `_` for `.`."""
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (directory / name.replace("_", ".")).write_bytes(data)
    return directory


def test_directory_with_a_valid_configuration_has_no_problems(tmp_path: Path) -> None:
    """The texts of metadata_from_file are read beside the configuration."""
    text = template(metadata_from_file=["startup-script:run.sh"])
    write(tmp_path, templates_cfg=text, managers_cfg=manager(), run_sh="echo")
    assert check_directory(tmp_path) == Verdict()
    (tmp_path / "run.sh").unlink()
    (problem,) = check_directory(tmp_path).problems
    assert (problem.file, problem.field) == ("templates.cfg", "metadata_from_file[0]")


def test_missing_directory_and_files_are_problems(tmp_path: Path) -> None:
    """Each missing file is named."""
    (problem,) = check_directory(tmp_path / "nowhere").problems
    assert "no such directory" in problem.message
    assert [p.file for p in check_directory(tmp_path).problems] == ["templates.cfg", "managers.cfg"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "managers { minimum_sise: 4 }",
            'unknown field "minimum_sise"; did you mean "minimum_size"?',
        ),
        ("nonsense", 'unknown field "nonsense"; use one of: managers'),
        (
            "managers { minimum_size: 99999999999 }",
            (
                "'managers { minimum_size: 99999999999 }': Value out of range: 99999999999; write "
                "a smaller number"
            ),
        ),
        (
            'managers { minimum_size: "4" }',
            (
                '\'managers { minimum_size: "4" }\': Couldn\'t parse integer: "4"; write a whole '
                "number, without quotes"
            ),
        ),
        (
            "managers { zone: 7 }",
            "'managers { zone: 7 }': Expected string but found: '7'; write it in quotes: \"...\"",
        ),
    ],
)
def test_a_field_of_the_wrong_name_or_kind_comes_with_what_to_write(
    tmp_path: Path, text: str, says: str
) -> None:
    """The protobuf library says what is wrong, not what is right."""
    write(tmp_path, templates_cfg=template(), managers_cfg=text)
    (problem,) = check_directory(tmp_path).problems
    assert str(problem) == f"managers.cfg:1: cannot be read: {says}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"# \xff\xfe", "not UTF-8 at byte 2"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "too large"),
        (manager().encode("utf-16"), "is UTF-16"),
        (manager().encode("utf-16-be"), "cannot be read"),
    ],
)
def test_unreadable_files_are_problems(tmp_path: Path, content: bytes, says: str) -> None:
    """Bytes that are not text, and files beyond reason, are refused before they are parsed."""
    write(tmp_path, templates_cfg=template(), managers_cfg=content)
    (problem,) = check_directory(tmp_path).problems
    assert problem.file == "managers.cfg"
    assert says in problem.message


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff", "not UTF-8"), (b"x" * (MAX_FILE_BYTES + 1), "too large")]
)
def test_unreadable_metadata_files_are_problems(tmp_path: Path, content: bytes, says: str) -> None:
    """A file that metadata_from_file names is told by its own name, once."""
    text = template(metadata_from_file=["startup-script:run.sh"])
    write(tmp_path, templates_cfg=text, managers_cfg=manager(), run_sh=content)
    (problem,) = check_directory(tmp_path).problems
    assert problem.file == "run.sh"
    assert says in problem.message


def test_a_file_that_is_too_large_for_metadata_is_told_as_the_daemon_tells_it(
    tmp_path: Path,
) -> None:
    """With the line that names it, by the same function."""
    text = template(metadata_from_file=["startup-script:run.sh"])
    content = "x" * (MAX_METADATA_VALUE + 1)
    write(tmp_path, templates_cfg=text, managers_cfg=manager(), run_sh=content)
    with pytest.raises(InvalidConfigurationError) as caught:
        parse(text, manager(), {"run.sh": content})
    assert check_directory(tmp_path).problems == caught.value.problems


@pytest.mark.parametrize("file", ["templates.cfg", "managers.cfg", "run.sh"])
def test_line_16_files_saved_on_windows_are_read(tmp_path: Path, file: str) -> None:
    """With a byte order mark, and with its line ends."""
    text = template(metadata_from_file=["startup-script:run.sh"])
    write(tmp_path, templates_cfg=text, managers_cfg=manager(), run_sh="echo")
    content = (tmp_path / file).read_text()
    (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert check_directory(tmp_path) == Verdict()


def test_dimensions_of_another_machine_provider_are_a_matter_of_the_settings(
    tmp_path: Path,
) -> None:
    """The problem names file, line, field and the setting."""
    text = template(dimensions=["linux_flavor:FEDORA"])
    write(tmp_path, templates_cfg=text, managers_cfg=manager())
    (problem,) = check_directory(tmp_path).problems
    assert (problem.file, problem.field) == ("templates.cfg", "dimensions[0]")
    assert problem.line == next(n for n, line in enumerate(text.split("\n"), 1) if "dim" in line)
    assert "machine_provider.extra_dimensions" in problem.message
    assert check_directory(tmp_path, ["linux_flavor:FEDORA"]) == Verdict()


def test_warnings_are_no_problems(tmp_path: Path) -> None:
    """The daemon would accept it."""
    write(tmp_path, templates_cfg=template(tags=["a", "a"]), managers_cfg=manager())
    verdict = check_directory(tmp_path)
    assert not verdict.total
    assert [warning.field for warning in verdict.warnings] == ["tags[1]"]
