"""One annotation → what turns JSON, text or a Python value into it, or says field by field why that cannot be.

    dict[str, Item] ── shape_of ──► Shape ── validator_of ──► Validator ─► .json(b"…") .text("…") .value(…) | ValueError
                                                                           .explain(error) ─► [{loc, msg, type}, …]

msgspec looks after msgspec's models and pydantic after everything else, since it names every field that is wrong,
where msgspec stops at the first. pydantic is imported by the first annotation that needs it, never before.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import GenericAlias, NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, get_args, get_origin

import msgspec

from rayserve.errors import InvalidTypeError
from rayserve.method_schema import ResponseSchema

__all__ = ["FieldError", "Shape", "Validator", "response_of", "shape_of", "validator_of"]

_SCALARS: Final = (str, int, float, bool)
_MANY: Final = 1000  # errors; beyond it they are counted, since listing a million takes gigabytes
_LISTED: Final = 100
_PATH: Final = re.compile(r" - at (`key` in )?`\$(.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_ABSENT: Final = re.compile(r"Object missing required field `(.+)`$")


class FieldError(TypedDict):
    """One thing that is wrong, in the form that clients of FastAPI know.

    Attributes:
        loc: the way to it: names and indices.
        msg: a sentence for people.
        type: a word for programs.
    """

    loc: list[str | int]
    msg: str
    type: str


class Shape(NamedTuple):
    """What an annotation is made of.

    Attributes:
        kind: `model`; `scalar`; `scalars`, a list of them; `nested`, any other list or dict.
        engine: who validates it.
        plain: whether it holds no model.
    """

    kind: Literal["model", "scalar", "scalars", "nested"]
    engine: Literal["pydantic", "msgspec"]
    plain: bool


class Validator(msgspec.Struct, frozen=True):
    """Makes values of one annotation; the functions raise a ValueError that `explain` understands.

    Attributes:
        json: of JSON.
        text: of the text of a path or query parameter.
        texts: of the texts of a repeated query parameter.
        value: of a Python value; of an instance of the model itself.
        explain: lists what was wrong; raises what is not its own again.
        schema: JSON Schema (2020-12) of what is accepted.
    """

    json: Callable[[bytes | bytearray], Any]
    text: Callable[[str], Any]
    texts: Callable[[list[str]], Any]
    value: Callable[[Any], Any]
    explain: Callable[[ValueError], list[FieldError]]
    schema: dict[str, Any]


def shape_of(hint: Any) -> Shape | None:
    """Return the shape of a model, of str, int, float or bool, or of a list or dict of these; None for all else."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return shape_of(args[0])
    if _is_scalar(hint):
        return Shape("scalar", "pydantic", True)
    if origin is list or origin is dict:
        if origin is dict and not _is_scalar(args[0]):
            return None
        inner = shape_of(args[-1])
        if inner is None:
            return None
        kind: Literal["scalars", "nested"] = "scalars" if origin is list and inner.kind == "scalar" else "nested"
        return Shape(kind, inner.engine, inner.plain)
    engine = _model_engine(origin or hint)
    return None if engine is None else Shape("model", engine, False)


def validator_of(hint: Any, shape: Shape) -> Validator | None:
    """Return the validator of an annotation; None if its model has a field that cannot be validated or described."""
    return _by_msgspec(hint) if shape.engine == "msgspec" else _by_pydantic(hint, shape)


def response_of(hint: Any) -> ResponseSchema | None:
    """Return what a result of this annotation looks like over HTTP; None if it cannot be said."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and 2 <= len(args) <= 3 and args[1] is int:  # (body, status, headers)
        return response_of(args[0])
    if hint is NoneType:
        return ResponseSchema()
    if hint is str:
        return ResponseSchema("text/plain", {"type": "string"})
    if hint is bytes:
        return ResponseSchema("application/octet-stream")
    if isinstance(origin, type) and issubclass(origin, (Iterator, AsyncIterator)):  # also generators
        return ResponseSchema("text/plain")
    schema = None if hint is Any or hint is inspect.Parameter.empty else _result_schema(hint)
    return ResponseSchema("application/json", schema) if schema else None


def _result_schema(hint: Any) -> dict[str, Any] | None:
    try:
        return msgspec.json.schema(hint)  # what it knows, it also encodes
    except TypeError:
        pass
    from pydantic import PydanticUserError, TypeAdapter

    try:
        # Not by alias: results are encoded by their fields' own names.
        return TypeAdapter(hint).json_schema(by_alias=False, mode="serialization")
    except (PydanticUserError, NameError, TypeError):
        return None


def _is_scalar(hint: Any) -> bool:
    return any(hint is one for one in _SCALARS)


def _model_engine(kind: Any) -> Literal["pydantic", "msgspec"] | None:
    if not isinstance(kind, type):
        return None
    if issubclass(kind, msgspec.Struct):
        _check_whole(kind)
        return "msgspec"
    if dataclasses.is_dataclass(kind):
        return "pydantic"
    pydantic = sys.modules.get("pydantic")  # whoever has a model of it has imported it
    return "pydantic" if pydantic is not None and issubclass(kind, pydantic.BaseModel) else None


def _check_whole(kind: type[msgspec.Struct]) -> None:
    """Raise `InvalidTypeError` for a class that cloudpickle cannot carry: what arrives has no fields."""
    structs = [base for base in kind.__mro__ if issubclass(base, msgspec.Struct)]
    slots = {name for base in structs for name in vars(base).get("__slots__", ())}  # one per field, and these do arrive
    if not slots <= {*kind.__struct_fields__, "__dict__", "__weakref__"}:
        raise InvalidTypeError(
            f'the msgspec model "{kind.__qualname__}" lost its fields on the way from the script that defines it; '
            "define it in a module that replicas can import, or make it a dataclass or a pydantic model"
        )


# -- pydantic ----------------------------------------------------------------------------------------------


def _by_pydantic(hint: Any, shape: Shape) -> Validator | None:
    from pydantic import PydanticUserError, TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema

    try:
        adapter: Any = TypeAdapter(_stopping_early(hint) if shape.plain else hint)
        try:
            schema = adapter.json_schema()
        except PydanticInvalidForJsonSchema:  # a model with fields of free types: it validates what it cannot describe
            schema = {"title": getattr(hint, "__name__", str(hint))}
    except (PydanticUserError, NameError, TypeError):  # a dataclass with fields of free types, or of unknown names
        return None
    core = adapter.validator
    value = core.validate_python
    if shape.kind == "model":  # the caller's script may have its own copy of the model's class
        value = partial(value, from_attributes=True)
    return Validator(core.validate_json, core.validate_strings, core.validate_python, value, _explain_pydantic, schema)


def _stopping_early(hint: Any) -> Any:
    """Return the hint such that a list of a million wrong numbers is refused for the first of them."""
    import pydantic

    fail_fast = getattr(pydantic, "FailFast", None)  # from 2.8 on
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_stopping_early(args[0]), *args[1:])]
    if origin is not list or fail_fast is None:
        return hint
    return Annotated[GenericAlias(list, (_stopping_early(args[0]),)), fail_fast()]


def _explain_pydantic(error: ValueError) -> list[FieldError]:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        raise error
    count = error.error_count()
    if count > _MANY:
        return [FieldError(loc=[], msg=f"{count} values are not valid, too many to list", type="too_many")]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [FieldError(loc=list(one["loc"]), msg=one["msg"], type=one["type"]) for one in found[:_LISTED]]


# -- msgspec -----------------------------------------------------------------------------------------------


def _by_msgspec(hint: Any) -> Validator | None:
    try:
        schema = msgspec.json.schema(hint)
        decoder = msgspec.json.Decoder(hint)
    except (NameError, TypeError):  # fields of types that it does not know
        return None
    value = partial(msgspec.convert, type=hint, from_attributes=True)
    return Validator(decoder.decode, value, value, value, _explain_msgspec, schema)


def _explain_msgspec(error: ValueError) -> list[FieldError]:
    if not isinstance(error, msgspec.MsgspecError):
        raise error
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return [FieldError(loc=[], msg=f"Invalid JSON: {message}", type="json_invalid")]
    loc: list[str | int] = []
    if (path := _PATH.search(message)) is not None:
        message = message[: path.start()]
        for name, index in _STEP.findall(path[2]):
            loc.append(name if name else int(index) if index.isdecimal() else index)
    if (absent := _ABSENT.match(message)) is not None:
        return [FieldError(loc=[*loc, absent[1]], msg="Field required", type="missing")]
    return [FieldError(loc=loc, msg=message, type="type_error" if ", got `" in message else "value_error")]
