"""Writes toolchain/report/report.schema.json from the document's dataclasses: python tools/report_schema.py.

tests/report/test_document.py checks that the file is what this makes, and that real documents validate against it.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toolchain.report import document
from toolchain.report.document import KIND, SCHEMA, Report
from toolchain.report.number import EVIDENCE

PATH = Path(document.__file__).with_name("report.schema.json")
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of `Report.as_json`."""
    definitions: dict[str, Any] = {}
    top = _object(Report, definitions)
    definitions["Number"]["properties"]["evidence"] = {"enum": [*EVIDENCE]}
    top["properties"] = {"schema": {"const": SCHEMA}, "kind": {"const": KIND}, **top["properties"]}
    top["required"] = ["schema", "kind", *top["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"boardfit report, schema {SCHEMA}",
        **top,
        "$defs": definitions,
    }


def text() -> str:
    """The file's contents."""
    return json.dumps(schema(), indent=1) + "\n"


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split("\n\n")[0].split()),
        "properties": {name: _of(hints[name], definitions) for name in names},
        "required": names,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is Any:
        return {}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": [*inner]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(one, definitions) for one in inner]}
    if origin is tuple and inner[1:] == (Ellipsis,):
        return {"type": "array", "items": _of(inner[0], definitions)}
    if origin is tuple:
        items = [_of(one, definitions) for one in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(inner[1], definitions)}
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}
        definitions[kind.__name__] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(f"wrote {PATH}")
