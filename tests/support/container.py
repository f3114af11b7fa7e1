"""Carries out a Dockerfile without a Docker engine, as far as that goes.

Each stage's files lie in a directory of their own; commands run on this machine's Python with the
absolute paths of the image replaced by that directory. What is not shown this way: the base image
itself, and the kernel's part (namespaces, the read-only mount, the user). For the last two there
are stand-ins: no capabilities, and a list of all files that the process opened for writing.

Use it for a test of what a Dockerfile builds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
from dockerfile_parse import DockerfileParser

NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
WATCH = """
import os, sys
def look(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and isinstance(path, str) and path != os.devnull:
            os.write(2, f"WROTE {path}\\n".encode())
    elif event in {"os.mkdir", "os.rename", "os.remove", "os.symlink"}:
        os.write(2, f"WROTE {event} {arguments}\\n".encode())
sys.addaudithook(look)
"""


class Container(NamedTuple):
    """What a Dockerfile makes.

    Attributes:
        root: its files.
        environment: the variables that the image sets.
        command: entry point and its arguments.
        probe: the health check's command.
        user: whose the process is.
        stop_signal: what ends it.
    """

    root: Path
    environment: dict[str, str]
    command: list[str]
    probe: list[str]
    user: str
    stop_signal: str

    def start(
        self, command: list[str], directory: Path, log: Path, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Starts a process of the image: without capabilities, and watched for what it writes.

        Args:
            command: what to run, found on the image's PATH.
            directory: of the watch.
            log: what it says and what it wrote.
            variables: its environment beside the image's own.
        """
        (directory / "sitecustomize.py").write_text(WATCH)
        environment = {"PYTHONPATH": str(directory), **self.environment, **variables}
        program = shutil.which(command[0], path=environment["PATH"])
        assert program, f"{command[0]} is not in the image"
        with log.open("ab") as out:
            return subprocess.Popen(
                [*_unprivileged(), program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                cwd="/",
            )


def _unprivileged() -> tuple[str, ...]:
    return NO_CAPABILITIES if os.geteuid() == 0 else ()


def build(context: Path, where: Path) -> Container:
    """Carries out `Dockerfile` in `context`, an instruction at a time.

    Args:
        context: the build's directory; `.dockerignore` says what of it may be copied.
        where: an empty directory.
    """
    root, directory, user, signal = where, "/", "root", "SIGTERM"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    stages: dict[str, Path] = {}
    environment: dict[str, str] = {}
    entry: list[str] = []
    arguments: list[str] = []
    probe: list[str] = []
    for kind, value in instructions(context / "Dockerfile"):
        if kind == "FROM":
            root = where / f"stage{len(stages)}"
            root.mkdir()
            stages[_name_of(value) or str(len(stages))] = root
            environment, directory, user = {"PATH": path}, "/", "root"
        elif kind == "ENV":
            for name, text in _variables(value):
                environment[name] = _mapped(text.replace("$PATH", environment["PATH"]), root)
        elif kind == "WORKDIR":
            directory = value
            (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif kind == "COPY":
            _copy(value, context, stages, root, root / directory.lstrip("/"))
        elif kind == "RUN":
            subprocess.run(
                ["/bin/sh", "-ec", _mapped(value, root)],
                cwd=root / directory.lstrip("/"),
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
        elif kind == "HEALTHCHECK":
            probe = msgspec.json.decode(value[value.index("CMD") + 3 :], type=list[str])
        elif kind == "ENTRYPOINT":
            entry = msgspec.json.decode(value, type=list[str])
        elif kind == "CMD":
            arguments = msgspec.json.decode(value, type=list[str])
        elif kind == "USER":
            user = value
        elif kind == "STOPSIGNAL":
            signal = value
        else:
            assert kind in {"LABEL", "EXPOSE"}, f"{kind} is not carried out here"
    return Container(root, environment, entry + arguments, probe, user, signal)


def _name_of(value: str) -> str:
    named = re.fullmatch(r"\S+\s+AS\s+(\S+)", value, re.IGNORECASE)
    return named[1] if named else ""


def _variables(value: str) -> list[tuple[str, str]]:
    return [(name, text) for name, _, text in (part.partition("=") for part in value.split())]


def _mapped(text: str, root: Path) -> str:
    """The image's own path on this machine."""
    return text.replace("/opt/", f"{root}/opt/")


def _copy(value: str, context: Path, stages: dict[str, Path], root: Path, directory: Path) -> None:
    *sources, target = value.split()
    there = root / target.lstrip("/") if target.startswith("/") else directory / target
    if sources[0].startswith("--from="):
        stage = stages[sources[0].removeprefix("--from=")]
        shutil.copytree(stage / sources[1].lstrip("/"), there, symlinks=True)
        _relocate(there, str(stage), str(root))
        return
    for name in sources:
        source = context / name
        assert _is_sent(context, name), f".dockerignore keeps {name} out of the build"
        if source.is_dir():
            leftovers = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
            shutil.copytree(source, there, ignore=leftovers)
        else:
            shutil.copy(source, there)


def _relocate(directory: Path, before: str, after: str) -> None:
    """In a real build the path is the same in both stages; here its scripts name the first."""
    for path in [directory / "pyvenv.cfg", *(directory / "bin").iterdir()]:
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))


def _is_sent(context: Path, name: str) -> bool:
    lines = (context / ".dockerignore").read_text().split("\n")
    return "*" in lines and f"!{name}" in lines


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their values, comments left out."""
    steps = DockerfileParser(path=str(dockerfile)).structure
    return [
        (step["instruction"], step["value"]) for step in steps if step["instruction"] != "COMMENT"
    ]
