"""google-auth finds the embedded metadata server as it finds the one of a VM."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import requests

from google_clients.compute import ZONE
from support.patience import PATIENCE
from support.served_cloud import PROJECT, ServedCloud

# In a process of its own, because google-auth reads its environment when it is imported.
DEFAULT_CREDENTIALS = """
import json
import google.auth
from google.auth.transport.requests import Request

scopes = ["https://www.googleapis.com/auth/cloud-platform"]
credentials, project = google.auth.default(scopes=scopes)
credentials.refresh(Request())
found = {
    "kind": type(credentials).__module__,
    "project": project,
    "account": credentials.service_account_email,
    "token": credentials.token,
    "valid": credentials.valid,
    "universe": credentials.universe_domain,
}
print(json.dumps(found))
"""


def test_default_credentials_are_those_of_the_metadata_server(served: ServedCloud) -> None:
    """With GCE_METADATA_HOST and GCE_METADATA_IP set, google.auth.default() needs nothing else."""
    host = served.url.removeprefix("http://")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",  # so that nobody's own credentials are found
        "GCE_METADATA_HOST": host,
        "GCE_METADATA_IP": host,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEFAULT_CREDENTIALS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    token = found.pop("token")
    assert found == {
        "kind": "google.auth.compute_engine.credentials",
        "project": PROJECT,
        "account": f"gce-backend@{PROJECT}.iam.gserviceaccount.com",
        "valid": True,
        "universe": "googleapis.com",
    }
    answer = requests.get(
        f"{served.url}/compute/v1/projects/{PROJECT}/zones/{ZONE}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE,
    )
    assert answer.json()["name"] == ZONE
