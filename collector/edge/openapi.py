"""The OpenAPI document, made from the contract."""

from typing import Any

from collector import VERSION
from collector.edge.batch_answer import MAX_ERRORS, MAX_EVENTS, MAX_KEY_CHARACTERS
from collector.edge.responses import COLLECT_REASON, FORMS, FORMS_OF_HEADS, late_head, not_http
from collector.events import CONTRACT, Reason

_HEADER = {"schema": {"type": "string"}}

_SITE_ID = {
    "name": "siteId",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}

_EVERY_BODY = "`Content-Encoding: gzip` is accepted. Events of senders with a key may be a `SenderEvent`."

_SECURITY: list[dict[str, list[str]]] = [{}, {"key": []}]  # with or without a key


def openapi() -> dict[str, Any]:
    """The public endpoints, in OpenAPI 3.1, whose schema dialect accepts the contract unchanged."""
    event = {key: value for key, value in CONTRACT.items() if key != "$schema"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Analytics event collector", "version": VERSION},
        "paths": {
            "/public/{siteId}/analytics/collect": {"post": _collect("collect", "Collect an analytics event")},
            # By default; `tracker.collect_path` may add another.
            "/public/{siteId}/e": {"post": _collect("collectShort", "The same at a path that blockers do not know")},
            "/public/{siteId}/batch": {"post": _batch()},
            "/public/{siteId}/p.gif": {"get": _pixel("pixel"), "head": _pixel("pixelHead")},
        },
        "components": {
            # For servers and imports. Browsers send events without a key.
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Event": event,
                "SenderEvent": _sender_event(),
                "BatchAnswer": _batch_answer(),
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
            },
        },
    }


def _sender_event() -> dict[str, Any]:
    """An event with the fields that only senders with a key may use (collector/ingest/sender.py).

    No request body refers to it: `Event` allows the fields too, with any value, because those of others are ignored.
    """
    meanings = {
        "received_at": "When the visitor's event was received, as an RFC 3339 date-time that is not in the future. "
        "Default: now.",
        "client_ip": "The visitor's IP address.",
        "user_agent": "The visitor's user agent.",
    }
    fields = {name: {"type": ["string", "null"], "description": meaning} for name, meaning in meanings.items()}
    return {
        "description": "An event of a sender with a key. In events of other senders, the three fields are ignored.",
        "allOf": [{"$ref": "#/components/schemas/Event"}, {"type": "object", "properties": fields}],
    }


def _batch_answer() -> dict[str, Any]:
    index = {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS - 1}
    return {
        "type": "object",
        "required": ["message", "stored"],
        "additionalProperties": False,
        "properties": {
            "message": {"type": "string"},
            "stored": {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS},
            "dropped": {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS},
            "errors": {
                "type": "array",
                "maxItems": MAX_ERRORS,
                "items": {
                    "type": "object",
                    "required": ["index", "reason", "message"],
                    "additionalProperties": False,
                    "properties": {
                        "index": index,
                        "reason": {"enum": [reason.value for reason in Reason]},
                        "message": {"type": "string"},
                    },
                },
            },
            "dropped_indexes": {"type": "array", "minItems": MAX_ERRORS + 1, "maxItems": MAX_EVENTS, "items": index},
        },
    }


def _collect(operation: str, summary: str) -> dict[str, Any]:
    event = {"$ref": "#/components/schemas/Event"}
    return {
        "operationId": operation,
        "summary": summary,
        "description": f"Any Content-Type is read as JSON. {_EVERY_BODY} 202 means not stored; the message says why.",
        "security": _SECURITY,
        "parameters": [_SITE_ID],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": event} for kind in ("application/json", "text/plain")},
        },
        "responses": _responses(),
    }


def _batch() -> dict[str, Any]:
    events = {"type": "array", "items": {"$ref": "#/components/schemas/Event"}, "minItems": 1, "maxItems": MAX_EVENTS}
    answers = {
        "201": _response("All events are stored", "BatchAnswer"),
        "202": _response("Not all events are stored; the answer says which, and why", "BatchAnswer", COLLECT_REASON),
        "422": _response("The same on a strict site", "BatchAnswer", COLLECT_REASON),
    }
    return {
        "operationId": "collectBatch",
        "summary": "Collect many events",
        "description": "A JSON array, or newline-delimited JSON; the first character tells. Any Content-Type will do. "
        f"{_EVERY_BODY} Each event is judged by itself.",
        "security": _SECURITY,
        "parameters": [
            _SITE_ID,
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "A second batch with the same key within a day gets the same answer, and nothing is "
                "stored.",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": events},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": dict(sorted((_responses() | answers).items())),
    }


def _pixel(operation: str) -> dict[str, Any]:
    content = {"image/gif": {"schema": {"type": "string", "contentMediaType": "image/gif"}}}
    answer = {"description": "The image, always", "headers": {COLLECT_REASON: _HEADER}, "content": content}
    return {
        "operationId": operation,
        "summary": "Collect an event by the URL of an image",
        "description": "For pages and mails without JavaScript. The query has the fields of an event; what is missing "
        "comes from the request. `Collect-Reason` says why the event is not stored. HEAD stores nothing.",
        "parameters": [_SITE_ID, *(_parameter(name, rule) for name, rule in CONTRACT["properties"].items())],
        "responses": {"200": answer} | {status: _responses()[status] for status in ("400", "408", "431")},
    }


def _parameter(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    """A field in the query, where no value is null."""
    types = [each for each in ([rule["type"]] if isinstance(rule["type"], str) else rule["type"]) if each != "null"]
    schema = {key: value for key, value in rule.items() if key in ("minLength", "maxLength")} | {"type": types[0]}
    if "enum" in rule:
        schema["enum"] = [value for value in rule["enum"] if value is not None]
    described = {"description": rule["description"]} if "description" in rule else {}
    return {"name": name, "in": "query", "required": False, **described, "schema": schema}


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
