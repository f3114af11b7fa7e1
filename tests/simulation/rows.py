"""The rows of safety.md's table of faults, in a few words each, for the count of what fired."""

from __future__ import annotations

from collections import Counter

ROWS: dict[int, str] = {
    1: "crash",
    2: "call succeeded, store write lost",
    3: "store write done, call never sent",
    4: "response lost after a mutation",
    5: "duplicate message",
    6: "reordered or late message",
    7: "poison message",
    8: "ack deadline passes, ack lost",
    9: "subscription deleted",
    10: "every message dropped",
    11: "403 rateLimitExceeded, 429",
    12: "403 permission",
    13: "500/503 bursts",
    14: "half-open socket, slow drip",
    15: "truncated JSON, HTML with 200",
    16: "operation DONE with error",
    17: "operation 404 or RUNNING for ever",
    18: "404 on get or delete",
    19: "409 on create",
    20: "412 fingerprint",
    21: "missing page, lost page token, warning in a list",
    22: "group lists empty once",
    23: "Datastore ABORTED",
    24: "commit outcome unknown",
    25: "lookup deferred, query batch unfinished",
    26: "two replicas, a paused old one",
    27: "clock jumps a day, or back",
    28: "config empty, or most of it gone",
    29: "Machine Provider down",
    30: "Machine Provider answers not-found for everything",
    31: "HOSTNAME_REUSE",
    32: "LEASED refusal",
    33: "VM name used again",
    34: "VM of a group vanishes under a lease",
    35: "stockout, quota exceeded",
    36: "token expiry, 401, metadata server down",
    37: "SIGTERM in the middle",
    38: "event loop blocked 10 s",
    39: "deleted instance reappears in a slow list",
    40: "VM, group or template of ours without an entity",
    41: "store restored from a backup, entities lost",
    42: "Machine Provider restored, or answering from the past",
    43: "a call executed minutes after its time-out",
    44: "second daemon: same owner, other store",
    45: "VM stops, is suspended, preempted, abandoned",
    46: "group deleted and recreated by hand",
    47: "VMs vanish again and again",
    48: "one refused item in a batch",
    49: "a peer slower than a job's deadline",
    50: "call budget exhausted by metadata",
    51: "approval given once",
    52: "clock set back a day with stored times in the future",
    53: "412 for ever, 404 for ever",
    54: "project without any group of ours left",
    55: "several replicas, restarts in a row",
    56: "subscription or its topic deleted and recreated",
}


def table(fired: Counter[int]) -> str:
    """The count of every row, a line each."""
    return "\n".join(f"{row:>3}  {fired[row]:>7}  {text}" for row, text in ROWS.items())


def missing(fired: Counter[int]) -> list[int]:
    """The rows that never fired."""
    return [row for row in ROWS if not fired[row]]
