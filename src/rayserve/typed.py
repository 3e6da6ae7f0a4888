"""Typed handlers: the annotations of a callable decide where its arguments come from and what they may be.

    function ── plan_of ──► Typed, once per method; None: the handler takes the request as it is
    path, query, JSON body ── Typed.from_request ──► args, kwargs | InvalidArgumentsError (422)
    handle.remote(…) ──────── Typed.from_call ─────► args, kwargs | InvalidArgumentsError
    Typed.schema() ──► JSON, which travels to every ingress for /-/openapi.json

Pure: nothing here knows of frames, threads or the request object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from rayserve import signatures
from rayserve.errors import InvalidArgumentsError
from rayserve.method_schema import MethodSchema, ParameterSchema, encode_schema
from rayserve.validators import FieldError, Shape, Validator, response_of, shape_of, validator_of

__all__ = ["Arguments", "Parameter", "Typed", "plan_of"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Place = Literal["body", "text", "texts", "json", ""]

_PLACES: Final[dict[str, Place]] = {"model": "json", "nested": "json", "scalar": "text", "scalars": "texts"}
_RAW: Final = inspect.Parameter
_ABSENT: Final = msgspec.Raw(b"")


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a typed handler.

    Attributes:
        name: as in Python.
        required: it has no default.
        keyword: it can be given by name, in Python.
        positional: it can be given by position.
        place: where HTTP brings it from: `body`, the whole body; `text` or `texts`, path, query or JSON object;
            `json`, the JSON object only; "", nowhere: it keeps its default.
        check: of its annotation; None where that is none we know.
        default: if it has one.
    """

    name: str
    required: bool
    keyword: bool
    positional: bool
    place: Place
    check: Validator | None
    default: Any


def plan_of(func: Any, bound: bool) -> Typed | None:
    """Return the plan of a callable; None if it is not typed.

    Typed is what has a parameter to fill and whose required parameters are all annotated with types that can be
    filled. Defaults stay where the parameter's name starts with `_`, where a `partial` has set it, and where its
    annotation is none that we know.

    Args:
        func: a function, method, `functools.partial` or `partialmethod`.
        bound: its first parameter is not `self` or `cls`.
    """
    signature = signatures.read(func, bound)
    if signature is None:
        return None
    parameters: list[Parameter] = []
    models = []
    for raw in signature.parameters:
        if raw.kind in (_RAW.VAR_POSITIONAL, _RAW.VAR_KEYWORD):
            continue
        kept = raw.default is not raw.empty and (raw.name[:1] == "_" or raw.name in signature.fixed)
        shape, check = (None, None) if kept else _known(raw, signature.hints.get(raw.name))
        if check is None and raw.default is raw.empty:
            return None
        if shape is not None and check is not None and shape.kind == "model":
            models.append(len(parameters))
        parameters.append(_parameter(raw, shape, check))
    if not any(one.place for one in parameters):
        return None
    # Beside another that only JSON can bring, a model is one member of the body as well.
    if len(models) == 1 and sum(one.place == "json" for one in parameters) == 1:
        parameters[models[0]] = msgspec.structs.replace(parameters[models[0]], place="body")
    kinds = {raw.kind for raw in signature.parameters}
    return Typed(parameters, _RAW.VAR_POSITIONAL in kinds, _RAW.VAR_KEYWORD in kinds, signature)


class Typed:
    """How to call one typed handler."""

    def __init__(
        self, parameters: list[Parameter], takes_more: bool, takes_named: bool, signature: signatures.Signature
    ) -> None:
        """Make the plan; see `plan_of`.

        Args:
            parameters: without `*args` and `**kwargs`.
            takes_more: it has `*args`.
            takes_named: it has `**kwargs`.
            signature: for the schema.
        """
        self.parameters = parameters
        self._signature = signature
        self._takes_more = takes_more
        self._takes_named = takes_named
        self._positional = [one for one in parameters if one.positional]
        self._named = {one.name: one for one in parameters if one.keyword}
        self._first = [one for one in parameters if not one.keyword]
        self._filled = [(one, one.check) for one in parameters if one.place and one.check is not None]
        by_name = [one.name for one, _ in self._filled if one.place != "body"]
        self._reads_query = bool(by_name)
        self._split: Callable[[bytes | bytearray], Any] | None = None
        if len(by_name) == len(self._filled):
            # Takes a JSON object apart into the members that are wanted, each still JSON.
            members = msgspec.defstruct("Body", [(name, msgspec.Raw, _ABSENT) for name in by_name])
            self._split = msgspec.json.Decoder(members).decode

    def from_request(
        self, params: Mapping[str, str], query: bytes, headers: list[tuple[str, str]], body: bytes | bytearray
    ) -> Arguments:
        """Return the arguments that an HTTP request means.

        Args:
            params: of the path, decoded.
            query: raw.
            headers: with lower-case names.
            body: whole.

        Raises:
            InvalidArgumentsError: something required is missing, or a value does not fit.
        """
        found: dict[str, Any] = {}
        errors: list[FieldError] = []
        texts = _texts(query) if query and self._reads_query else {}
        reads = bool(body) and _is_json(headers)
        members: Any = None
        for one, check in self._filled:
            name, place, at = one.name, one.place, "body"
            try:
                if place == "body":
                    if reads:
                        found[name] = check.json(body)
                        continue
                elif place != "json" and (name in params or name in texts):
                    at = "path" if name in params else "query"
                    values = [params[name]] if name in params else texts[name]
                    found[name] = check.text(values[-1]) if place == "text" else check.texts(values)
                    continue
                elif reads and self._split is not None:
                    if members is None:
                        members = self._members(body)
                    if piece := bytes(getattr(members, name)):
                        found[name] = check.json(piece)
                        continue
                elif place != "json":
                    at = "query"
            except ValueError as error:
                errors += _placed([at] if place == "body" else [at, name], check.explain(error))
                continue
            except RecursionError:
                errors.append(_TOO_DEEP)
                continue
            if one.required and body and not reads and (place == "body" or self._split is not None):
                errors += [] if _NOT_JSON in errors else [_NOT_JSON]
            elif one.required:
                errors.append(_missing([at] if place == "body" else [at, name]))
        if errors:
            raise InvalidArgumentsError(errors)
        return self._in_order(found) if self._first else ((), found)

    def from_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Return the arguments of a Python call, each made what its annotation says.

        Raises:
            InvalidArgumentsError: one is missing, too many, or does not fit.
        """
        errors: list[FieldError] = []
        given = [_checked(one, value, errors) for one, value in zip(self._positional, args, strict=False)]
        met = {one.name for one in self._positional[: len(args)]}
        if len(args) > len(given):
            if not self._takes_more:
                errors.append(FieldError(loc=[len(given)], msg="Unexpected argument", type="unexpected_argument"))
            given += args[len(given) :]
        named: dict[str, Any] = {}
        for name, value in kwargs.items():
            one = self._named.get(name)
            if one is None:
                if not self._takes_named:
                    errors.append(FieldError(loc=[name], msg="Unexpected argument", type="unexpected_argument"))
                named[name] = value
            elif name in met:
                errors.append(FieldError(loc=[name], msg="Given twice", type="multiple_argument_values"))
            else:
                met.add(name)
                named[name] = _checked(one, value, errors)
        errors += [_missing([one.name]) for one in self.parameters if one.required and one.name not in met]
        if errors:
            raise InvalidArgumentsError(errors)
        return tuple(given), named

    def schema(self) -> bytes:
        """Return what clients may send and get, as a `MethodSchema` in JSON."""
        parameters = [
            ParameterSchema(one.name, one.place, one.required, _with_default(check.schema, one))
            for one, check in self._filled
        ]
        response = response_of(self._signature.hints.get("return", _RAW.empty))
        return encode_schema(MethodSchema(parameters, response, self._signature.doc))

    def _members(self, body: bytes | bytearray) -> Any:
        """Return the JSON object that a body is, taken apart."""
        assert self._split is not None
        try:
            return self._split(body)
        except msgspec.ValidationError:
            wrong = FieldError(loc=["body"], msg="Input should be an object", type="dict_type")
        except msgspec.DecodeError as error:
            wrong = FieldError(loc=["body"], msg=f"Invalid JSON: {error}", type="json_invalid")
        except RecursionError:
            wrong = _TOO_DEEP
        raise InvalidArgumentsError([wrong])

    def _in_order(self, found: dict[str, Any]) -> Arguments:
        """Give positional-only parameters by position."""
        return tuple(found.pop(one.name, one.default) for one in self._first), found


def _known(raw: inspect.Parameter, hint: Any) -> tuple[Shape | None, Validator | None]:
    if raw.default is not raw.empty and get_origin(hint) in (Union, UnionType):
        rest = [one for one in get_args(hint) if one is not NoneType]
        shape = shape_of(rest[0]) if len(rest) == 1 else None
    else:
        shape = shape_of(hint)
    return shape, None if shape is None else validator_of(hint, shape)


def _parameter(raw: inspect.Parameter, shape: Shape | None, check: Validator | None) -> Parameter:
    return Parameter(
        raw.name,
        raw.default is raw.empty,
        raw.kind is not raw.POSITIONAL_ONLY,
        raw.kind is not raw.KEYWORD_ONLY,
        _PLACES[shape.kind] if shape is not None and check is not None else "",
        check,
        raw.default,
    )


def _texts(query: bytes) -> dict[str, list[str]]:
    """Return name → values; bytes that are not UTF-8 stay percent-encoded, as in `request.args`."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(
        query.decode(errors="werkzeug.url_quote"), keep_blank_values=True, errors="werkzeug.url_quote"
    ):
        found.setdefault(name, []).append(value)
    return found


def _is_json(headers: list[tuple[str, str]]) -> bool:
    """Whether the body is sent as JSON; also if nothing is said of it."""
    for name, value in headers:
        if name == "content-type":
            kind = value.partition(";")[0].strip().lower()
            return kind in ("", "application/json") or (kind.startswith("application/") and kind.endswith("+json"))
    return True


def _checked(one: Parameter, value: Any, errors: list[FieldError]) -> Any:
    if one.check is None:
        return value
    try:
        return one.check.value(value)
    except ValueError as error:
        errors += _placed([one.name], one.check.explain(error))
        return None


def _placed(at: list[str | int], errors: list[FieldError]) -> list[FieldError]:
    return [FieldError(loc=[*at, *one["loc"]], msg=one["msg"], type=one["type"]) for one in errors]


def _missing(at: list[str | int]) -> FieldError:
    return FieldError(loc=at, msg="Field required", type="missing")


def _with_default(schema: dict[str, Any], one: Parameter) -> dict[str, Any]:
    simple = one.default is None or isinstance(one.default, (str, int, float))
    return schema if one.required or not simple else {**schema, "default": one.default}


_TOO_DEEP: Final = FieldError(loc=["body"], msg="Invalid JSON: it is nested too deeply", type="json_invalid")
_NOT_JSON: Final = FieldError(
    loc=["body"], msg="the body is not sent as JSON; add the header content-type: application/json", type="content_type"
)
