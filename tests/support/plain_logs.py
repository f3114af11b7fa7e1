"""Plain log lines: for folders whose tests run a daemon in which errors are logged on purpose."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

__all__ = ["plain_logs"]


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Tracebacks drawn with all their variables take seconds each.

    Every level is logged, whatever a fixture of another module has left to be logged.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
    )
    yield
    structlog.reset_defaults()
