"""Runs foreign clients against the embedded cloud, and prints what works: `make foreign-clients`.

Each brings an environment of its own, with pinned versions, that is made below build/. With
`--record`, what they ask is written to `recorded/`, which the suite asks again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from foreign_clients.recording import Recorder
from google_clients.credentials import issued_token
from support.served_cloud import PROJECT, served_cloud

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "foreign-clients"
_RECAP = re.compile(r"ok=(\d+) .*ignored=(\d+)")
_COUNT = re.compile(r"^(\d+) of (\d+)$", re.MULTILINE)


class Client(NamedTuple):
    """One client.

    Attributes:
        name: of its recording.
        package: what it is called, and where its version is found.
        command: what runs it, in its environment.
        folder: where it is run.
        more: further environment variables.
    """

    name: str
    package: str
    command: list[str]
    folder: Path
    more: Mapping[str, str] = MappingProxyType({})


def node() -> list[Client]:
    """Google's clients for Node, over REST."""
    folder = BUILD / "node"
    shutil.copytree(HERE / "node", folder, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)  # noqa: S607  # wherever npm is
    return [
        Client(f"node-{name}", _node_package(folder, name), ["node", f"{name}.mjs"], folder)
        for name in ("compute", "datastore", "pubsub")
    ]


def _node_package(folder: Path, name: str) -> str:
    package = f"@google-cloud/{name}"
    described = json.loads((folder / "node_modules" / package / "package.json").read_text())
    return f"{package} {described['version']}"


def ansible() -> list[Client]:
    """The google.cloud collection; Ansible counts what succeeded in its own words."""
    python, version = _python("ansible")
    playbook = python.with_name("ansible-playbook")
    command = [str(playbook), "-i", "localhost,", "-e", f"ansible_python_interpreter={python}"]
    return [
        Client(
            "ansible",
            f"Ansible's google.cloud collection of ansible {version['ansible']}",
            [*command, "site.yml"],
            HERE / "ansible",
            {"ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"},
        )
    ]


def airflow() -> list[Client]:
    """Airflow's hooks."""
    python, version = _python("airflow")
    home = BUILD / "airflow" / "home"
    home.mkdir(exist_ok=True)
    return [
        Client(
            "airflow",
            f"apache-airflow-providers-google {version['apache-airflow-providers-google']}",
            [str(python), "hooks.py"],
            HERE / "airflow",
            {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
            },
        )
    ]


def _python(name: str) -> tuple[Path, dict[str, str]]:
    """The interpreter of an environment with the versions that a tool's folder pins."""
    folder, pinned = BUILD / name, (HERE / name / "requirements.txt").read_text()
    made, python = folder / "requirements.txt", folder / "venv" / "bin" / "python"
    if not made.exists() or made.read_text() != pinned:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "-r", str(HERE / name / "requirements.txt")], check=True)
        made.write_text(pinned)
    versions = (line.partition("==") for line in pinned.splitlines())
    return python, {package: version for package, _, version in versions}


ENVIRONMENTS: dict[str, Callable[[], list[Client]]] = {
    "node": node,
    "ansible": ansible,
    "airflow": airflow,
}


def _counted(output: str) -> tuple[int, int]:
    """How many attempts succeeded, and how many there were; Ansible ignores those that failed."""
    recap = _RECAP.findall(output)
    if recap:
        passed, ignored = map(int, recap[-1])
        return passed - ignored, passed
    counts = _COUNT.findall(output)
    return (int(counts[-1][0]), int(counts[-1][1])) if counts else (0, 0)


def tried(client: Client, *, record: bool) -> tuple[int, int]:
    """How many of a client's attempts succeeded, and how many there were."""
    with served_cloud() as served:
        recorder = Recorder(served.url)
        host = recorder.url.removeprefix("http://")
        environment = {
            **os.environ,
            "CLOUD": recorder.url,
            "PORT": host.partition(":")[2],
            "PROJECT": PROJECT,
            "GCE_METADATA_HOST": host,
            "GCE_METADATA_IP": host,
            "METADATA_SERVER_DETECTION": "assume-present",
            "ACCESS_TOKEN": issued_token(served.url)[0],
            "PYTHONPATH": str(HERE / "python"),
            **client.more,
        }
        run = subprocess.run(
            client.command,
            cwd=client.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        recording = recorder.recording(client.package)
    if record:
        recording.write(HERE / "recorded" / f"{client.name}.jsonl")
    found = _counted(run.stdout)
    for line in run.stdout.splitlines():
        if line.startswith(("FAIL", "fatal")):
            print(f"  {line[:500]}")
    if not found[1]:
        print(run.stdout[-2000:], run.stderr[-2000:], sep="\n")
    return found


def main() -> int:
    """Prints how many attempts of each client succeeded; 1 when not all did."""
    parser = argparse.ArgumentParser(prog="make foreign-clients", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what they ask to recorded/")
    parser.add_argument("--only", choices=sorted(ENVIRONMENTS), help="one environment alone")
    given = parser.parse_args()
    missing = 0
    for name, prepare in ENVIRONMENTS.items():
        if given.only in {None, name}:
            for client in prepare():
                good, all_of_them = tried(client, record=given.record)
                missing += all_of_them - good
                print(f"{client.package}: {good} of {all_of_them}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
