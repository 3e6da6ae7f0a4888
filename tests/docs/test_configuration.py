"""docs/configuration.md against config.py and the environment that settings.py reads: the page may not drift."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from rayserve import api, settings
from rayserve.checked import Checked
from rayserve.config import BackendConfig, EndpointConfig, HTTPOptions

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
WIDEST = 2**16  # limits beyond only catch slips of units; they are not worth a reader's time
SAID = {
    "user_config": "any picklable value",
    "call_methods": "None, a list of names, False",
    "trusted_proxies": "a list of addresses",
}


def described(kind: type[Checked]) -> dict[str, str]:
    """Option → what the class's docstring says of it."""
    lines = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        entry = re.fullmatch(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def default_of(name: str, field: FieldInfo) -> str:
    value = field.default
    is_size = name.endswith("_bytes") or name in ("max_request_line", "min_body_rate")
    for unit, word in SIZES if is_size else ():
        if value and value % unit == 0:
            return f"`{value}` ({value // unit} {word})"
    return f"`{value!r}`"


def values_of(name: str, field: FieldInfo) -> str:
    if name in SAID:
        return SAID[name]
    kinds = [kind for kind in typing.get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    optional = "None, or " if len(kinds) < len(typing.get_args(field.annotation)) else ""
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{kind!r}`" for kind in kinds)
    kind, limits = kinds[0], list(field.metadata)
    if typing.get_origin(kind) is typing.Annotated:
        kind, *more = typing.get_args(kind)
        limits += [limit for info in more for limit in (info.metadata if isinstance(info, FieldInfo) else [info])]
    if kind is bool:
        return "`True`, `False`"
    bounds = ", ".join(said for limit in limits if (said := bound(limit)))
    return f"{optional}{'int' if kind is int else 'number'}, {bounds}"


def bound(limit: object) -> str:
    if isinstance(limit, Gt):
        return f"above {limit.gt}"
    if isinstance(limit, Ge):
        return f"{limit.ge} or more"
    if isinstance(limit, Le) and isinstance(limit.le, int) and limit.le < WIDEST:
        return f"{limit.le} at most"
    return ""


def table(kind: type[Checked]) -> str:
    """The Markdown table that the page must hold."""
    words = described(kind)
    lines = ["| option | default | values | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        meaning = words[name][0].upper() + words[name][1:]
        lines.append(f"| `{name}` | {default_of(name, field)} | {values_of(name, field)} | {meaning} |")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", [BackendConfig, EndpointConfig, HTTPOptions])
def test_the_page_has_every_option_with_its_default(kind: type[Checked]) -> None:
    assert list(described(kind)) == list(kind.model_fields)
    assert table(kind) in PAGE, f"put this into docs/configuration.md:\n\n{table(kind)}"


def test_the_page_shows_the_signature_of_init() -> None:
    shown = re.search(r"```\nserve\.init\((.*?)\n\)", PAGE, re.DOTALL)
    assert shown is not None
    plain = [line.partition("#")[0].strip().rstrip(",") for line in shown[1].strip().splitlines()]
    assert plain == list(_parameters())


def _parameters() -> Iterator[str]:
    seen_star = False
    for parameter in inspect.signature(api.init).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not seen_star:
            seen_star = True
            yield "*"
        yield f"{parameter.name}={parameter.default!r}".replace("'", '"')


def test_the_page_has_every_environment_variable() -> None:
    named = re.findall(r"^    ([A-Z_]+)(?:, ([A-Z_]+))? ", settings.__doc__ or "", re.MULTILINE)
    variables = {variable for pair in named for variable in pair if variable}
    assert len(variables) >= 6
    missing = {variable for variable in variables if f"`{variable}`" not in PAGE}
    assert not missing
