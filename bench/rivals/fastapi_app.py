"""An event endpoint as a Python team would write it: FastAPI, pydantic, uvicorn with uvloop and httptools.

    python fastapi_app.py PORT SCHEMA

The model has the contract's 61 fields. Valid events get a 201; nothing is stored. The route passes the body to pydantic
as bytes, which is FastAPI's fastest way and the only one that accepts a beacon's `text/plain`.
"""

import json
import sys
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

_TYPES = {"string": str, "number": float, "boolean": bool}


def event_model(contract: dict[str, Any]) -> type[BaseModel]:
    """Build a model of the contract: types, lengths, enums, required and nullable fields."""
    fields: dict[str, Any] = {}
    for name, rule in contract["properties"].items():
        names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        (kind,) = (_TYPES[json_type] for json_type in names if json_type != "null")
        if "enum" in rule:
            kind = Literal[tuple(value for value in rule["enum"] if value is not None)]  # type: ignore[assignment]
        limits = {"min_length": rule.get("minLength"), "max_length": rule.get("maxLength")}
        kept = {limit: length for limit, length in limits.items() if length is not None}
        annotated: Any = Annotated[kind, Field(**kept)] if kept else kind
        if "null" in names:
            annotated = annotated | None
        fields[name] = (annotated, ... if name in contract["required"] else None)
    return create_model("Event", __config__=ConfigDict(strict=True, extra="ignore"), **fields)


def build_app(contract: dict[str, Any]) -> FastAPI:
    event = event_model(contract)
    app = FastAPI(openapi_url=None)
    received = b'{"message":"Event received"}'

    async def collect(site: Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")], request: Request) -> Response:
        try:
            event.model_validate_json(await request.body())
        except ValidationError as exc:
            return Response(exc.json(include_url=False, include_input=False), 422, media_type="application/json")
        return Response(received, 201, media_type="application/json")

    app.add_api_route("/public/{site}/analytics/collect", collect, methods=["POST"])
    return app


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        app = build_app(json.load(file))
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip
