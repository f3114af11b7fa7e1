"""Plain log lines: for folders whose tests run a daemon in which errors are logged on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

__all__ = ["plain_logs"]


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Tracebacks drawn with all their variables take seconds each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )
    yield
    structlog.reset_defaults()
