"""What the documents show can be typed, read and asked for: every example is tried."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import structlog
import yaml
from aiohttp.test_utils import make_mocked_request

from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.configuration.parsing import parse, referenced_files
from gce_backend.machine_provider.access.parsing import parse_access
from gce_backend.settings.settings import HttpSettings, Secret, load
from gce_backend.settings.tokens import NamedToken, Role, named_tokens
from gce_backend.web.access import Gate
from support.documents import DOCUMENTS, Example, code_of, examples, name_of
from support.fleet_harness import manager, template, world

ALL = [example for path in DOCUMENTS for example in examples(path)]
LANGUAGES = {"sh", "toml", "textproto", "json", "yaml", "nginx", "python", "text"}
"""`text` is what is not to be typed: output, usage, queries of the log (checked elsewhere)."""
OPERATORS = set("();<>|&")
CONTRACT = "GCE_BACKEND_CONTRACT_"
"""Variables of tests/contract, which are no settings."""


def of(language: str) -> list[Example]:
    """The examples in a language."""
    found = [example for example in ALL if example.language == language]
    assert found, f"there is no example in {language}"
    return found


def where(example: Example) -> str:
    """The place of an example, for people."""
    return example.where


def statements(text: str) -> Iterator[list[str]]:
    """The commands of a shell script, each as its words; comments and operators left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= OPERATORS:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def commands(example: Example) -> Iterator[list[str]]:
    """The command lines of gce-backend in an example, without the program's name."""
    for words in statements(joined(example.text)):
        rest = [word for word in words if not re.match(r"(export|[A-Z_]+=.*)$", word)]
        if rest and rest[0].rpartition("/")[2] == "gce-backend":
            yield rest[1:]


def joined(text: str) -> str:
    """A script whose quoted texts over several lines are on one."""
    return re.sub(r"'[^'\n]*\n[^']*'", lambda found: found[0].replace("\n", " "), text)


TYPED = [(example.where, line) for example in of("sh") for line in commands(example)]
ASSIGNED = [
    (example.where, dict(re.findall(r'(GCE_BACKEND_\w+)=("[^"]*"|\S+)', example.text)))
    for example in of("sh")
]
SET = [(place, found) for place, found in ASSIGNED if any(CONTRACT not in name for name in found)]


def test_every_block_says_what_it_is() -> None:
    """So that none escapes the tests below."""
    assert not [example.where for example in ALL if example.language not in LANGUAGES]


def test_line_20_the_proxy_of_the_example_keeps_the_token_needed() -> None:
    """Each header that it adds says that the request was forwarded, but for the host's."""
    (example,) = of("nginx")
    headers = dict(re.findall(r"proxy_set_header (\S+) (\S+);", example.text))
    assert headers.pop("Host") == "$http_host"
    gate = Gate(
        HttpSettings(),
        lambda: [NamedToken("operator", Role.READ, Secret("t"))],
        clock=SystemClock(),
        log=structlog.get_logger(),
        refused=lambda _: None,
    )
    for name in headers:
        request = make_mocked_request("GET", "/", headers={"Host": "127.0.0.1", name: "x"})
        assert not gate.may_read(request)
    version = re.search(r"proxy_http_version (\S+);", example.text)
    assert version
    assert version[1] == "1.1"


@pytest.mark.parametrize(("place", "line"), TYPED, ids=[f"{a} {b[:1]}" for a, b in TYPED])
def test_a_command_line_is_understood(
    place: str, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the program's own parser: command, options, their values, arguments."""
    (tmp_path / "settings.toml").touch()
    monkeypatch.chdir(tmp_path)
    name, *arguments = line
    monkeypatch.chdir(tmp_path)
    if "--settings" in arguments:  # which is read with the command line
        Path(arguments[arguments.index("--settings") + 1]).touch()
    parent = click.Context(main, info_name="gce-backend")
    with main.commands[name].make_context(name, arguments, parent=parent):
        pass


@pytest.mark.parametrize(("place", "variables"), SET, ids=[place for place, _ in SET])
def test_variables_are_settings(place: str, variables: dict[str, str]) -> None:
    """The reader of the settings takes them."""
    load(None, {name: value.strip('"') for name, value in variables.items()})


@pytest.mark.parametrize("example", of("toml"), ids=where)
def test_a_settings_file_can_be_read(example: Example, tmp_path: Path) -> None:
    """With no problem in it."""
    file = tmp_path / "settings.toml"
    file.write_text(example.text)
    if re.search(r'^role = "', example.text, re.MULTILINE):
        assert named_tokens(HttpSettings(tokens_file=file))
    else:
        load(file, {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_document_s_configuration_is_valid(path: Path) -> None:
    """All of its templates with each example of managers, and each access.cfg, by their rules."""
    blocks = [example.text for example in examples(path) if example.language == "textproto"]
    texts = [text for text in blocks if not text.startswith(("issuers", "groups"))]
    for text in blocks:
        if text not in texts:
            assert parse_access(text).warnings == ()
    templates = "".join(text for text in texts if text.startswith("templates"))
    managers = [text for text in texts if text.startswith("managers")]
    assert len(templates + "".join(managers)) == sum(map(len, texts))
    assert managers or not templates
    for text in managers:
        parse(templates, text, dict.fromkeys(referenced_files(templates), "a file"))


@pytest.mark.parametrize("example", of("json") + of("yaml"), ids=where)
def test_data_can_be_read(example: Example) -> None:
    """JSON as JSON, YAML as YAML."""
    if example.language == "json":
        msgspec.json.decode(example.text)
    else:
        assert yaml.safe_load(example.text)


@pytest.mark.parametrize("example", of("python"), ids=where)
def test_a_program_can_be_compiled_and_what_it_imports_is_there(example: Example) -> None:
    """Its imports alone are run: the rest talks to a service."""
    tree = ast.parse(example.text)
    imports: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, []), where(example), "exec"), {})  # noqa: S102 -- our own text


async def test_every_address_named_is_served(tmp_path: Path) -> None:
    """What the documents tell people to ask the daemon for is there."""
    code = "\n".join(piece for path in DOCUMENTS for piece in code_of(path))
    addresses = set(re.findall(r"(?<![\w/.])/(?:api/[a-z-]+|healthz|readyz|metrics)\b", code))
    addresses |= {f"/{tail}" for tail in re.findall(r"127\.0\.0\.1:8080/(\w[\w/-]*)", code)}
    assert len(addresses) > 10
    async with world(tmp_path, templates=template(), managers=manager()) as w:
        for address in sorted(addresses):
            async with (
                w.session.get(w.daemon.url + address) as read,
                w.session.post(w.daemon.url + address) as ordered,
            ):
                # An order without a token is refused, but not as something unknown.
                assert read.status != 404 or ordered.status in {401, 403}, address
