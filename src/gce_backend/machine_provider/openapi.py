"""The OpenAPI document of `/api/v1`, made from the routes and the types of requests and answers."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from gce_backend import __version__
from gce_backend.machine_provider import lease_api
from gce_backend.machine_provider.lease_api import ApiRoute

PATH = "/api/v1/openapi.json"
_REFERENCE = "#/components/schemas/{name}"
_ERRORS = {
    "400": "the request is malformed; the message names the field",
    "401": "the token is refused",
    "403": "there is no token, or its owner may not do that",
    "404": "there is no such lease or machine",
    "409": "it cannot be carried out as things are",
    "503": "this process stands by, or a service that it needs does not answer: try again",
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
            "required": ["code", "message"],
        }
    },
    "required": ["error"],
}


@functools.cache
def document() -> Mapping[str, Any]:
    """The document as plain JSON values."""
    routes = lease_api.ROUTES
    kinds = [kind for route in routes for kind in (_request(route), _answer(route))]
    schemas, components = msgspec.json.schema_components(
        kinds, schema_hook=_of_anything, ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route, (request, answer) in zip(
        routes, zip(schemas[::2], schemas[1::2], strict=True), strict=True
    ):
        asked = components[str(request["$ref"]).rpartition("/")[2]]
        operation = _operation(route, asked, answer)
        paths.setdefault(_path(route), {})[route.verb.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Machine Provider",
            "version": __version__,
            "description": "Leases machines. Times are in Unix seconds, durations in seconds.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A Google access token, or an identity token of an issuer that "
                    "access.cfg names.",
                }
            },
        },
        "security": [{"token": []}],
    }


def _of_anything(kind: type) -> dict[str, Any]:
    """The schema of a value of any type.

    Raises:
        NotImplementedError: the type says more than that.
    """
    if kind is not object:
        raise NotImplementedError
    return {"description": "a value of any kind"}


def _request(route: ApiRoute) -> type[msgspec.Struct]:
    return lease_api.METHODS[route.name].request


def _answer(route: ApiRoute) -> Any:
    """The type of a method's answer, as the function that carries it out says."""
    return typing.get_type_hints(lease_api.METHODS[route.name].act)["return"]


def _path(route: ApiRoute) -> str:
    """The path without the patterns of its variables."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)


def _operation(
    route: ApiRoute, asked: Mapping[str, Any], answer: Mapping[str, Any]
) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)", route.path)
    fields: Mapping[str, Any] = asked.get("properties", {})
    required = set(asked.get("required", ())) - set(names)
    rest = {name: field for name, field in fields.items() if name not in names}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": fields[name]} for name in names
    ]
    operation: dict[str, Any] = {"operationId": route.name}
    if route.verb == "GET":
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in rest.items()
        ]
    elif rest:
        body = {"type": "object", "properties": rest, "required": sorted(required)}
        operation["requestBody"] = {"required": bool(required), "content": _json(body)}
    return {
        **operation,
        **({"parameters": parameters} if parameters else {}),
        "responses": {
            "200": {"description": "done", "content": _json(answer)},
            **{
                status: {
                    "description": text,
                    "content": _json({"$ref": _REFERENCE.format(name="Error")}),
                }
                for status, text in _ERRORS.items()
            },
        },
    }


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
