"""The OpenAPI document of the control API, made from the table of routes.

The format: https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from echo_core._version import __version__
from echo_core.control.documents import Failure
from echo_core.control.routes import FAILURES, LARGEST_NUMBER, LINES, ROUTES, Lines, Query, Route

_REFERENCE: Final = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The whole document."""
    kinds = {kind for route in ROUTES for kind in (route.gives, route.takes) if kind is not None}
    ordered = sorted({*kinds, Failure} - {Lines}, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    references: dict[type, Any] = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Echo Core control API",
            "version": __version__,
            "description": "A running host, on loopback. The token is in core/state/control/token.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route, references: dict[type, Any]) -> dict[str, Any]:
    words = re.findall(r"[a-z]+", route.path.removeprefix("/v1"))
    operation: dict[str, Any] = {
        "operationId": "_".join((route.method.lower(), *words)),
        "summary": route.summary,
        "parameters": [*_in_path(route.path), *map(_in_query, route.query)],
        "responses": {
            "200": {"description": "Done.", "content": _content(route.gives, references)},
            **{
                str(code): {"description": why, "content": _content(Failure, references)}
                for code, why in FAILURES.items()
            },
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {
            "content": _content(route.takes, references),
            "required": _is_required(route.takes),
        }
    if route.open:
        operation["security"] = []
        operation["responses"] = {
            code: {"description": why, "content": _content(route.gives, references)}
            for code, why in (("200", "Yes."), ("503", "No."))
        }
    return operation


def _content(kind: type, references: Mapping[type, Any]) -> dict[str, Any]:
    if kind is Lines:
        return {LINES: {"schema": {"type": "string", "description": "A dead letter a line, as JSON."}}}
    return {"application/json": {"schema": references[kind]}}


def _is_required(kind: type) -> bool:
    """Whether it says nothing to say nothing: an empty body is an empty object."""
    return kind is Lines or any(field.required for field in msgspec.structs.fields(kind))


def _in_path(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        schema = (
            {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER}
            if name == "number"
            else {"type": "string"}
        )
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if query.kind is int else "string"}
    if query.kind is int:
        schema |= {"minimum": 0, "maximum": query.most}
    if query.default is not None:
        schema["default"] = query.default
    return {"name": query.name, "in": "query", "description": query.meaning, "schema": schema}
