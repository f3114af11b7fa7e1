"""Writes docs/reference/: the languages of the files, the settings, the commands, from the code.

Each page says what its source says, and nothing else: comments of the .proto, docstrings of the
settings, help texts of the commands. `make docs` runs this; a test compares what is there.
"""

from __future__ import annotations

import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from msgspec import inspect

from gce_backend.cli import main as gce_backend
from gce_backend.cli.common import INTERRUPTED
from gce_backend.settings.settings import ENVIRONMENT_PREFIX, Settings

ROOT = Path(__file__).parent.parent
PROTO = "gce_backend/configuration/proto/config.proto"
ACCESS_PROTO = "gce_backend/machine_provider/access/proto/access.proto"
REFERENCE = ROOT / "docs" / "reference"
HEAD = "# {title}\n\n<!-- Written by scripts/reference.py (`make docs`): edit {source}. -->\n"
FLEET = f"""\
Every field of `templates.cfg` and `managers.cfg`, as [config.proto](../../src/{PROTO}) defines
them. [Configuration](../configuration.md) shows how they are used; `gce-backend validate DIR`
checks files against these rules.
"""
ACCESS = f"""\
Every field of `access.cfg`, which says who may do what at a Machine Provider, as
[access.proto](../../src/{ACCESS_PROTO}) defines them.
"""
SETTINGS = f"""\
Every key of the settings, to be given in the file or as a variable
([how](../configuration.md#settings)): `http.port` is `{ENVIRONMENT_PREFIX}HTTP__PORT`. Times are
seconds, shares 0 to 1.
"""
EXIT_CODES = f"""
## Exit codes

| code | means |
| --- | --- |
| 0 | it is done, or there is nothing to do |
| 1 | it could not be done, or something is wrong; the message says what |
| 2 | wrong usage; `plan`: something would change (there, wrong usage is 1) |
| {INTERRUPTED} | Ctrl-C, before the work was done |
"""

Field = descriptor_pb2.FieldDescriptorProto


def pages() -> dict[Path, str]:
    """Every page, by its file."""
    return {
        REFERENCE / "fleet.md": fields_page("Fleet reference", PROTO, FLEET),
        REFERENCE / "access.md": fields_page("Access reference", ACCESS_PROTO, ACCESS),
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "commands.md": commands_page(),
    }


# The languages of the configuration and of access.cfg.


def fields_page(title: str, proto: str, intro: str) -> str:
    """What the files of a .proto may say."""
    file = described(proto)
    comments = {
        tuple(location.path): one_paragraph(location.leading_comments)
        for location in file.source_code_info.location
    }
    lines = [
        HEAD.format(title=title, source=f"src/{proto}"),
        intro,
    ]
    for index in from_above(file):
        message = file.message_type[index]
        lines += [f"\n## {message.name}\n", comments[4, index] + "\n"]
        lines += ["| field | no. | type | when absent | meaning and rules |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for position, field in enumerate(message.field):
            meaning, absent = without_default(comments.get((4, index, 2, position), ""))
            lines.append(
                f"| `{field.name}` | {field.number} | {field_type(field)} | {absent} | {meaning} |"
            )
    for index, enum in enumerate(file.enum_type):
        lines += [f"\n## {enum.name}\n", comments[5, index] + "\n"]
        lines += ["| word | meaning |", "| --- | --- |"]
        for position, value in enumerate(enum.value):
            lines.append(f"| `{value.name}` | {comments[5, index, 2, position]} |")
    return "\n".join(lines) + "\n"


def from_above(file: descriptor_pb2.FileDescriptorProto) -> Iterator[int]:
    """The messages, by index: each of those that no other holds, followed by what it holds."""
    held = [[kind_name(field) for field in message.field] for message in file.message_type]
    indices = {message.name: index for index, message in enumerate(file.message_type)}

    def below(index: int) -> Iterator[int]:
        yield index
        for name in held[index]:
            if name in indices:
                yield from below(indices[name])

    for name, index in indices.items():
        if not any(name in names for names in held):
            yield from below(index)


def kind_name(field: Field) -> str:
    """The name of the message that a field holds; "" when it holds none."""
    return field.type_name.rpartition(".")[2]


def described(proto: str) -> descriptor_pb2.FileDescriptorProto:
    """A .proto, with its comments."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        arguments = ["protoc", f"--proto_path={ROOT / 'src'}", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={out}", proto]) != 0:
            raise SystemExit(f"src/{proto} does not compile")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


def field_type(field: Field) -> str:
    """The type in words, with a link where it is a message."""
    if field.type in {Field.TYPE_MESSAGE, Field.TYPE_ENUM}:
        name = kind_name(field)
        word = f"[{name}](#{name.lower()})"
    else:
        word = Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{word}, repeated" if field.label == Field.LABEL_REPEATED else word


def without_default(comment: str) -> tuple[str, str]:
    """A field's comment without its sentence on absence, and what that sentence says."""
    if "Required." in comment:
        return comment.replace("Required.", "").strip(), "required"
    found = re.search(r" ?When absent: (.+?)\.(?= |$)", comment)
    if found is None:
        return comment, "-"
    return comment.replace(found[0], "").strip(), found[1]


# The settings.


def settings_page() -> str:
    """Every key of the settings."""
    lines = [
        HEAD.format(title="Settings reference", source="src/gce_backend/settings/settings.py"),
        SETTINGS,
    ]
    sections: list[tuple[str, str, type[msgspec.Struct]]] = []
    lines += ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for field in struct_fields(Settings):
        match field.type:
            case inspect.StructType(cls=section):
                sections.append((field.name, field.name, section))
            case inspect.DictType(value_type=inspect.StructType(cls=section)):
                sections.append((field.name, f"{field.name}.<name>", section))
            case _:
                lines.append(row(Settings, field, field.name))
    for name, prefix, section in sections:
        intro, _, _ = (section.__doc__ or "").partition("\n\n")
        lines += [f"\n## {name}\n", one_paragraph(intro) + "\n"]
        lines += ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
        lines += [row(section, f, f"{prefix}.{f.name}") for f in struct_fields(section)]
    return "\n".join(lines) + "\n"


def row(section: type[msgspec.Struct], field: inspect.Field, key: str) -> str:
    """The row of one setting."""
    default = "none" if field.default is None else f"`{written(field.default)}`"
    meaning = attributes(section.__doc__ or "")[field.name]
    return f"| `{key}` | {default} | {allowed(field.type)} | {meaning} |"


def struct_fields(struct: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """The fields of a struct, with their types."""
    info = inspect.type_info(struct)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{struct.__name__} is not a struct")
    return info.fields


def attributes(docstring: str) -> dict[str, str]:
    """The meanings that a docstring gives to attributes."""
    _, _, listed = textwrap.dedent(docstring).partition("Attributes:\n")
    entries = re.findall(r"^ {4,8}(\w+): (.+(?:\n {9,}.+)*)", listed, re.MULTILINE)
    return {name: sentence(one_paragraph(text)) for name, text in entries}


def sentence(text: str) -> str:
    """The text with a capital at its beginning; Python's words become those of TOML."""
    text = re.sub(r"\bNone\b", "unset", text)
    text = re.sub(r"\b(False|True)\b", lambda found: f"`{found[0].lower()}`", text)
    return text[0].upper() + text[1:]


def written(value: Any) -> str:
    """A default as it is written in TOML."""
    return msgspec.json.encode(value).decode().replace('","', '", "')


def allowed(kind: inspect.Type) -> str:
    """Which values a type allows, in words."""
    match kind:
        case inspect.UnionType():
            return allowed(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
        case inspect.LiteralType():
            return ", ".join(f'`"{value}"`' for value in kind.values)
        case inspect.BoolType():
            return "`true`, `false`"
        case inspect.CollectionType() | inspect.VarTupleType():
            return f"list of {allowed(kind.item_type)}"
        case inspect.IntType() | inspect.FloatType():
            return number(kind)
        case _:
            return "text"


def number(kind: inspect.IntType | inspect.FloatType) -> str:
    """Which numbers are allowed."""
    word = "whole number" if isinstance(kind, inspect.IntType) else "number"
    low = f"above {kind.gt:g}" if kind.gt is not None else ""
    low = f"from {kind.ge:g}" if kind.ge is not None else low
    high = f"to {kind.le:g}" if kind.le is not None else ""
    return " ".join(part for part in (word, low, high) if part)


# The commands.


def commands_page() -> str:
    """Every command with its arguments, options and exit codes."""
    top = click.Context(gce_backend, info_name="gce-backend", **gce_backend.context_settings)
    commands = list(walk(top))
    common = [option for option in options(top) if "--version" not in option.opts]
    lines = [
        HEAD.format(title="Commands", source="src/gce_backend/cli"),
        f"{paragraphs(gce_backend.help)}\n",
        "| command | does |",
        "| --- | --- |",
    ]
    for context in commands:
        path = context.command_path
        lines.append(f"| [`{path}`](#{anchor(path)}) | {context.command.get_short_help_str(200)} |")
    lines += ["\nEvery command takes these, too:\n", options_table(top, common), EXIT_CODES]
    known = {option.opts[-1] for option in common}
    for context in commands:
        command = context.command
        lines += [f"\n## {context.command_path}\n", "```text"]
        lines += [" ".join([context.command_path, *command.collect_usage_pieces(context)]), "```\n"]
        lines += [paragraphs(command.help), ""]
        lines += [options_table(context, [o for o in options(context) if o.opts[-1] not in known])]
        lines += ["", paragraphs(command.epilog)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def walk(parent: click.Context) -> Iterator[click.Context]:
    """A context for each command below a group, in the order of the help."""
    group = parent.command
    if not isinstance(group, click.Group):
        raise TypeError(f"{parent.command_path} has no commands")
    for name in group.list_commands(parent):
        command = group.commands[name]
        if command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from walk(context)
        else:
            yield context


def options(context: click.Context) -> list[click.Option]:
    """The options of a command that are meant to be seen; arguments are in its usage and help."""
    parameters = context.command.get_params(context)
    return [p for p in parameters if isinstance(p, click.Option) and not p.hidden]


def options_table(context: click.Context, shown: list[click.Option]) -> str:
    """What each option means; nothing when there are none."""
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for option in shown:
        names, _ = option.get_help_record(context) or ("", "")
        extra = option.get_help_extra(context)
        default = f"`{extra['default']}`" if "default" in extra else "-"
        meaning = (option.help or "") + (f" ({extra['range']})" if "range" in extra else "")
        lines.append(f"| `{cell(names)}` | {cell(default)} | {cell(meaning)} |")
    return "\n".join(lines) if shown else ""


def paragraphs(text: str | None) -> str:
    """A help text as Markdown: what is laid out by hand there becomes a block of code."""
    parts = []
    for part in textwrap.dedent(text or "").strip().split("\n\n"):
        if part.startswith("\b\n"):
            head, _, lines = part[2:].partition("\n")
            parts.append(f"{head}\n\n```sh\n{textwrap.dedent(lines)}\n```")
        else:
            parts.append(one_paragraph(part))
    return "\n\n".join(parts)


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", r"\|")


def anchor(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def one_paragraph(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
