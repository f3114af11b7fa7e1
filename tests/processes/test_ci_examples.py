"""The examples for CI and pytest of docs/lease.md, carried out on a Machine Provider."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from processes.running import Command, Site, _request, site, until
from support.documents import DOCS, ROOT, text_of
from support.patience import PATIENCE
from support.provider_harness import DAEMON

PAGE = text_of(DOCS / "lease.md")
GITHUB, GITLAB, PYTEST = (
    PAGE.partition("\nGitHub Actions. ")[2].partition("\nGitLab CI. ")[0],
    PAGE.partition("\nGitLab CI. ")[2].partition("\n## ")[0],
    PAGE.partition("pytest has the fixtures")[2],
)
URL = "https://machines.example.com"
"""The Machine Provider in the examples."""
SCRIPT = '#!/bin/sh\necho "tested on $MACHINE" >>result\n'
WRAPPER = f'#!/bin/sh\nexec "{sys.executable}" -m gce_backend "$@"\n'
REQUEST_TOKEN = "of-the-runner"


def block(text: str, language: str, number: int = 0) -> str:
    """An example of a part of the page."""
    return str(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number])


def claims_of(text: str) -> str:
    """The pattern of claims that the page tells an operator to write."""
    return str(re.findall(r"`(claims: \"[^`]+\")`", text)[0])


class Place(NamedTuple):
    """A Machine Provider with some machines, whose access.cfg believes the cloud's tokens.

    Attributes:
        cloud: the cloud that issues the tokens.
        url: where the Machine Provider is.
        directory: where a job's checkout is.
    """

    cloud: Site
    url: str
    directory: Path

    def identity_token(self, **claims: str) -> str:
        """A token as a CI system signs it."""
        body = json.dumps({"sub": "job-1", **claims}).encode()
        answer = _request("POST", f"{self.cloud.url}/_localcloud/identity-tokens", body)
        return str(answer["id_token"])

    def daemon(self, verb: str, path: str, body: Any = None) -> Any:
        """A call with the daemon's token."""
        token = _request("POST", f"{self.cloud.url}/_localcloud/tokens/{DAEMON}")["access_token"]
        data = None if body is None else json.dumps(body).encode()
        return _request(verb, self.url + path, data, {"Authorization": f"Bearer {token}"})

    def state(self, name: str) -> str:
        """A machine's state in the catalog; "" when it is not there."""
        body = {"hostname": name, "backend": "GCE"}
        return str(self.daemon("POST", "/_ah/api/catalog/v1/get", body).get("state", ""))

    def taken(self, name: str) -> str:
        """What a job has written into a file, which is removed."""
        file = self.directory / name
        text = file.read_text("utf-8").strip()
        file.unlink()
        return text

    def run(self, command: str, environment: Mapping[str, str]) -> None:
        """One step of a job, as its runner runs it: it must succeed."""
        done = subprocess.run(
            ["/bin/bash", "-e", "-c", command],
            cwd=self.directory,
            env={
                "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all examples, each with a machine of its own."""
    directory = tmp_path_factory.mktemp("ci")
    with site(directory) as made, socket.socket() as free:
        made.start_cloud("--no-latency")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        free.close()
        access = f"""
        issuers {{ url: "{made.url}" audiences: "{url}" }}
        groups {{ name: "daemon" members: "{DAEMON}" roles: [BACKEND, VIEWER] backend: "GCE" }}
        groups {{
          name: "github" roles: USER max_held: 1
          workloads {{ issuer: "{made.url}" {claims_of(GITHUB)} }}
        }}
        groups {{
          name: "gitlab" roles: USER max_held: 1 hold_failed: "1h"
          workloads {{ issuer: "{made.url}" {claims_of(GITLAB)} }}
        }}
        """
        (directory / "access.cfg").write_text(access, "utf-8")
        command = start(made, port)
        until(lambda: _request("GET", f"{url}/readyz")["ok"])
        job = directory / "job"
        (job / "bin").mkdir(parents=True)
        for path, text in {
            job / "test-on.sh": SCRIPT,
            job / "bin" / "gce-backend": WRAPPER,
            job / "bin" / "pip": '#!/bin/sh\necho "$@" >>installed\n',
        }.items():
            path.write_text(text, "utf-8")
            path.chmod(0o755)
        found = Place(made, url, job)
        for name in ("vm-1", "vm-2", "vm-3", "vm-4", "vm-5"):  # each is leased once
            body = {"dimensions": {"hostname": name, "os_family": "LINUX"}, "policies": {}}
            found.daemon("POST", "/_ah/api/catalog/v1/add_machine", body)
        yield found
        assert command.stop() == 0


def start(made: Site, port: int) -> Command:
    """The Machine Provider's process."""
    environment = {
        **made.environment,
        "GCE_BACKEND_ENDPOINTS__TOKENINFO": f"{made.url}/tokeninfo",
        "GCE_BACKEND_PROVIDER__ACCESS": "access.cfg",
        "GCE_BACKEND_PROVIDER__NAMESPACE": "of-ci",
        "GCE_BACKEND_PROVIDER__PORT": str(port),
    }
    return made.start("provider", "machine-provider", **environment)


class Runner(http.server.BaseHTTPRequestHandler):
    """GitHub's endpoint for a job's identity tokens."""

    place: ClassVar[Place]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        """A token for the audience, for whoever has the runner's own."""
        audience = parse_qs(urlsplit(self.path).query)["audience"][0]
        self.asked.append(audience)
        known = self.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}"
        claims = {"aud": audience, "repository": "YOUR-ORG/app", "ref": "refs/heads/main"}
        body = json.dumps({"value": self.place.identity_token(**claims)}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_the_example_for_github_actions(place: Place) -> None:
    """With the identity token that its permission lets it ask for."""
    workflow = yaml.safe_load(block(GITHUB, "yaml").replace(URL, place.url))
    assert workflow["permissions"]["id-token"] == "write"
    job = workflow["jobs"]["test"]
    Runner.place, Runner.asked = place, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Runner) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}/token?api-version=2.0"
            given = {
                "ACTIONS_ID_TOKEN_REQUEST_URL": endpoint,
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
            }
            for step in job["steps"]:
                if "run" in step:
                    place.run(step["run"], job["env"] | given)
        finally:
            server.shutdown()
            thread.join()
    assert Runner.asked == [place.url]
    carried_out(place)


def test_the_example_for_gitlab_ci(place: Place) -> None:
    """With the identity token that `id_tokens` asks for."""
    job = yaml.safe_load(block(GITLAB, "yaml").replace(URL, place.url))["test"]
    [(name, wanted)] = job["id_tokens"].items()
    token = place.identity_token(aud=wanted["aud"], project_path="YOUR-GROUP/team/app")
    for command in job["script"]:
        place.run(command, {**job["variables"], name: token})
    carried_out(place)


def carried_out(place: Place) -> None:
    """The job has installed the package, run its test on a machine, and given the machine back."""
    assert place.taken("installed") == "install gce-backend"
    said, _, machine = place.taken("result").rpartition(" ")
    assert said == "tested on"
    until(lambda: not place.state(machine))


PASSES = f"""import pathlib

{block(PYTEST, "python", 1)}
    pathlib.Path("machine").write_text(leased_machine)
"""
"""The test of the page, which then says which machine it has."""


def run_pytest(place: Place, test: str, *, fails: bool = False) -> str:
    """One session of pytest in the job's directory; returns its machine.

    Args:
        place: the Machine Provider.
        test: the tests, of which the last one uses the machine.
        fails: whether some of them are to fail.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    [plugin] = project["entry-points"]["pytest11"].values()
    (place.directory / "conftest.py").write_text(block(PYTEST, "python"), "utf-8")
    (place.directory / "test_boots.py").write_text(test, "utf-8")
    token = place.identity_token(aud=place.url, project_path="YOUR-GROUP/app")
    environment = {
        "GCE_BACKEND_PROVIDER__TOKEN": token,
        "GCE_BACKEND_PROVIDER__URL": place.url,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # it may be installed with its entry point, or not
        "PYTHONDONTWRITEBYTECODE": "1",  # the next test is another one of the same name
    }
    command = f"'{sys.executable}' -m pytest -q -p {plugin} test_boots.py"
    place.run(f"! {command}" if fails else command, environment)
    return place.taken("machine")


def test_the_example_for_pytest(place: Place) -> None:
    """The fixture leases a machine for the session; the package tells pytest of it."""
    machine = run_pytest(place, PASSES)
    until(lambda: not place.state(machine))


def test_the_machine_of_a_test_that_failed_is_held(place: Place) -> None:
    """As access.cfg says; the failure of a test that does not use it holds nothing."""
    machine = run_pytest(place, f"def test_of_another():\n    assert 0\n\n{PASSES}", fails=True)
    until(lambda: not place.state(machine))
    machine = run_pytest(place, f"{PASSES}    assert 0\n", fails=True)
    found = place.daemon("GET", "/api/v1/leases?everybody=true")["leases"]
    assert [(one["machines"], one["state"]) for one in found] == [([machine], "held")]
    assert place.state(machine) == "LEASED"
