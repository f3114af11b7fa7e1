"""Configurations of which the original's verdict of 2019 is recorded, and ours beside it.

`original_2019.jsonl` holds a line for each of the 76, of 160 tried, in which the two once differed:
what is changed in a usual template and manager, the original's verdict (`ok`, `refused`, or
`later`: accepted, to fail for good afterwards), ours (`ok`, `warning`, `refused`), and why they
differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError
from support.config_texts import manager, template

RECORDED: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__).with_name("original_2019.jsonl").read_text().splitlines()
]


def ours(case: dict[str, Any]) -> str:
    """What `parse` says to a recorded configuration."""
    usual: dict[str, Any] = {"base_name": "lnx", "project": "proj-one", "image_name": "img"}
    text = case.get("templates", template(**(usual | case.get("template", {}))))
    of: dict[str, Any] = {"template_base_name": case.get("template", {}).get("base_name", "lnx")}
    try:
        parsed = parse(text, manager(**(of | case.get("manager", {}))), {})
    except InvalidConfigurationError:
        return "refused"
    return "warning" if parsed.warnings else "ok"


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_line_16_the_originals_verdict_is_ours_or_the_reason_says_why_not(
    case: dict[str, Any],
) -> None:
    """What it took is taken, what failed is refused; anything else has a reason."""
    assert ours(case) == case["ours"]
    agree = (case["theirs"] == "ok") == (case["ours"] != "refused")
    assert agree is not bool(case.get("reason"))
