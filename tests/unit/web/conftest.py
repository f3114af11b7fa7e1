"""Tests that run a daemon log plainly."""

from support.plain_logs import plain_logs

__all__ = ["plain_logs"]
