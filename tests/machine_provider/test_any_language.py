"""docs/lease.md's ten lines over HTTP lease a machine and give it back."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from pathlib import Path

import pytest

from machine_provider.test_service import USER, machine, until_ready
from support.documents import DOCS, examples
from support.provider_harness import place


@pytest.mark.real_time
async def test_the_ten_lines_lease_a_machine_and_give_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but HTTP and JSON."""
    (example,) = (it for it in examples(DOCS / "lease.md") if "urllib.request" in it.text)
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        await p.ok(mp, "catalog.add_machine", machine("vm-1"))
        monkeypatch.setenv("GCE_BACKEND_PROVIDER__URL", mp.url)
        monkeypatch.setenv("GCE_BACKEND_PROVIDER__TOKEN", await p.token(USER))
        nap = time.sleep
        monkeypatch.setattr(time, "sleep", lambda _: nap(0.05))
        printed = io.StringIO()

        def run() -> None:
            with contextlib.redirect_stdout(printed):
                exec(compile(example.text, "lease.md", "exec"), {})  # noqa: S102

        await asyncio.to_thread(run)
        assert "['vm-1']\n" in printed.getvalue()
