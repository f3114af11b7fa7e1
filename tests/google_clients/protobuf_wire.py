"""Datastore's wire of protobuf over HTTP, put on the embedded cloud's JSON.

Google's Datastore answers a request in the encoding that it came in. The embedded cloud speaks JSON
only, because the messages' classes are no run-time dependency. google-cloud-datastore speaks
protobuf only; this adapter of its HTTP session puts the one into the other, by the rules of
proto3's JSON mapping, and changes nothing else.
"""

from __future__ import annotations

from typing import Any

import requests
from google.cloud import datastore_v1
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2
from requests.adapters import HTTPAdapter

_MESSAGES: dict[str, tuple[Any, Any]] = {
    "lookup": (datastore_v1.LookupRequest, datastore_v1.LookupResponse),
    "runQuery": (datastore_v1.RunQueryRequest, datastore_v1.RunQueryResponse),
    "runAggregationQuery": (
        datastore_v1.RunAggregationQueryRequest,
        datastore_v1.RunAggregationQueryResponse,
    ),
    "beginTransaction": (
        datastore_v1.BeginTransactionRequest,
        datastore_v1.BeginTransactionResponse,
    ),
    "commit": (datastore_v1.CommitRequest, datastore_v1.CommitResponse),
    "rollback": (datastore_v1.RollbackRequest, datastore_v1.RollbackResponse),
    "allocateIds": (datastore_v1.AllocateIdsRequest, datastore_v1.AllocateIdsResponse),
    "reserveIds": (datastore_v1.ReserveIdsRequest, datastore_v1.ReserveIdsResponse),
}


class ProtobufAdapter(HTTPAdapter):
    """Sends protobuf requests as JSON, and gives JSON answers as protobuf."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """One exchange with the embedded cloud."""
        assert request.url is not None
        assert isinstance(request.body, bytes)
        sent, received = _MESSAGES[request.url.rpartition(":")[2]]
        message = sent.pb().FromString(request.body)
        message.ClearField("project_id")  # the path says it
        request.headers["Content-Type"] = "application/json"
        request.prepare_body(json_format.MessageToJson(message), files=None)
        response = super().send(request, *args, **kwargs)
        if response.status_code == 200:
            # Unknown members are refused, so that the answer's every name is checked too.
            answer = json_format.Parse(response.content, received.pb()())
        else:
            answer = _status(response.json()["error"])
        response._content = answer.SerializeToString()
        response.headers["Content-Type"] = "application/x-protobuf"
        return response


def _status(error: dict[str, Any]) -> status_pb2.Status:
    code = code_pb2.Code.Value(error["status"])
    return status_pb2.Status(code=code, message=error["message"])
