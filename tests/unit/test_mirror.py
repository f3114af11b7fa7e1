"""A test is found by the name of what it tests."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src" / "gce_backend"


@pytest.mark.parametrize("folder", ["rules", "actions", "loops"])
def test_every_module_has_a_test_file_of_its_name(folder: str) -> None:
    """What a module promises is read in one file."""
    modules = {path.stem for path in (SOURCE / folder).glob("[!_]*.py")}
    assert modules
    assert modules <= {path.stem.removeprefix("test_") for path in (HERE / folder).glob("test_*")}
