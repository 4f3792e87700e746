"""The OpenAPI document, made from the contract."""

from typing import Any

from collector import VERSION
from collector.edge.responses import COLLECT_REASON, FORMS, FORMS_OF_HEADS, late_head, not_http
from collector.events import CONTRACT, Reason

_HEADER = {"schema": {"type": "string"}}


def openapi() -> dict[str, Any]:
    """The public endpoint, at both paths, in OpenAPI 3.1, whose schema dialect accepts the contract unchanged."""
    event = {key: value for key, value in CONTRACT.items() if key != "$schema"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Analytics event collector", "version": VERSION},
        "paths": {
            "/public/{siteId}/analytics/collect": {"post": _collect("collect", "Collect an analytics event")},
            # By default; `tracker.collect_path` may add another.
            "/public/{siteId}/e": {"post": _collect("collectShort", "The same at a path that blockers do not know")},
        },
        "components": {
            "schemas": {
                "Event": event,
                "Message": {
                    "type": "object",
                    "required": ["message"],
                    "additionalProperties": False,
                    "properties": {"message": {"type": "string"}},
                },
                "Error": {
                    "type": "object",
                    "required": ["message", "errors"],
                    "properties": {
                        "message": {"type": "string", "maxLength": 200},
                        "errors": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["message", "code"],
                                "properties": {
                                    "message": {"type": "string"},
                                    "code": {"type": "string"},
                                    "field": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            }
        },
    }


def _collect(operation: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": "Any Content-Type is read as JSON. 202 means not stored; the message says why.",
        "parameters": [
            {
                "name": "siteId",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"$ref": "#/components/schemas/Event"}} for kind in ("application/json", "text/plain")
            },
        },
        "responses": _responses(),
    }


def _responses() -> dict[str, Any]:
    responses = {
        "201": _response("Stored", "Message"),
        "202": _response("Not stored; the message says why", "Message", COLLECT_REASON),
    }
    for reason, form in [*FORMS.items(), *FORMS_OF_HEADS.items()]:
        if reason is not Reason.METHOD:  # a wrong method has no operation in this document
            names = [COLLECT_REASON, *(name for name, _ in form.headers)]
            if reason in (Reason.RATE_LIMITED, Reason.UNAVAILABLE):
                names.append("Retry-After")
            responses[str(form.status)] = _response(form.code.replace("_", " ").capitalize(), "Error", *names)
    for fixed in (not_http(), late_head()):
        responses[str(fixed.status)]["content"]["text/plain"] = {"schema": {"const": fixed.body.decode()}}
    return dict(sorted(responses.items()))


def _response(description: str, schema: str, *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": dict.fromkeys(headers, _HEADER),
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
