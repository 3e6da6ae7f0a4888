"""Which endpoint a path means: exact routes, then templates, then mounts.

    routes ──► Matcher (once per table) ──► match(raw path) ──► key, params, mount, rest | None

Paths are compared as they were sent, still percent-encoded, and parameters decoded afterwards, so that an encoded
slash never makes a segment. Spellings that RFC 3986 6.2.2 calls equivalent are one: `/%61` is `/a`, `%c3` is `%C3`,
and a character outside the RFC's path alphabet equals its UTF-8 escape. Escapes of reserved characters stay
distinct (`/a%2Cb` is not `/a,b`), as do trailing slashes, doubled slashes and dot segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from rayserve.errors import InvalidValueError
from rayserve.policy.route import Route, canonical, check_route, parse_route

__all__ = ["Match", "Matcher", "check_route"]

K = TypeVar("K")


class Match(msgspec.Struct, Generic[K], frozen=True):
    """What a path was found to mean. `mount + rest` is always the path as it was sent.

    Attributes:
        key: what the route was registered with.
        params: decoded parameters of a template; of a mount `path`, the decoded rest without its first slash.
            Never write to it: matches of exact routes are shared.
        rest: what an app behind the route sees as its path, still encoded; "" if a mount itself was asked for.
        mount: the encoded prefix in front of `rest`, an app's root path; "" for exact routes and templates.
    """

    key: K
    params: Mapping[str, str]
    rest: str
    mount: str


class _Node(Generic[K]):
    """One segment of the templates' trie."""

    __slots__ = ("end", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[K]] = {}
        self.parameter: _Node[K] | None = None
        self.end: tuple[K, tuple[str, ...]] | None = None


class Matcher(Generic[K]):
    """All routes of one table, made ready for matching."""

    __slots__ = ("_exact", "_mount_depths", "_mounts", "_root", "_template_depths")

    def __init__(self, routes: Iterable[tuple[str, K]]) -> None:
        """Compile `(route, key)` pairs.

        Raises:
            InvalidValueError: a malformed route, or two that conflict.
        """
        self._exact: dict[str, Match[K]] = {}
        self._root: _Node[K] = _Node()
        self._template_depths: set[int] = set()
        self._mounts: dict[str, K] = {}
        taken: dict[object, str] = {}
        for text, key in routes:
            route = parse_route(text)
            if route.shape in taken:
                raise InvalidValueError(f'routes "{taken[route.shape]}" and "{text}" match the same paths; keep one')
            taken[route.shape] = text
            self._add(route, key)
        self._mount_depths = sorted({prefix.count("/") for prefix in self._mounts}, reverse=True)

    def match(self, raw_path: str) -> Match[K] | None:
        """Return what `raw_path` means, None if no route has it.

        Args:
            raw_path: the request's path as sent: percent-encoded, without query, starting with "/".
        """
        found = self._exact.get(raw_path)
        if found is not None:
            return found
        if raw_path[:1] != "/":
            return None
        path = canonical(raw_path)
        if path != raw_path and (found := self._exact.get(path)) is not None:
            return Match(found.key, found.params, raw_path, "")
        depth = path.count("/")
        if depth in self._template_depths and (end := self._walk(path[1:].split("/"))) is not None:
            return Match(end[0], end[1], raw_path, "")
        for mount_depth in self._mount_depths:
            if mount_depth <= depth:
                key = self._mounts.get(_prefix(path, mount_depth), _ABSENT)
                if not isinstance(key, _Absent):
                    mount = _prefix(raw_path, mount_depth)
                    rest = raw_path[len(mount) :]
                    return Match(key, {"path": unquote(rest[1:], errors="replace")}, rest, mount)
        return None

    def _add(self, route: Route, key: K) -> None:
        if route.kind != "template":
            path = "".join(f"/{segment}" for segment in route.segments)
            if route.kind == "mount":
                self._mounts[path] = key
            else:
                self._exact[path] = Match(key, {}, path, "")
            return
        node = self._root
        for segment in route.segments:
            if segment is not None:
                node = node.literals.setdefault(segment, _Node())
                continue
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        node.end = (key, route.names)
        self._template_depths.add(len(route.segments))

    def _walk(self, segments: list[str]) -> tuple[K, dict[str, str]] | None:
        """Return key and parameters of the template that fits; a literal goes before a parameter at each segment.

        No node is met twice, so a path costs at most a look at every template.
        """
        stack: list[tuple[_Node[K], int, tuple[str, ...]]] = [(self._root, 0, ())]
        while stack:
            node, depth, values = stack.pop()
            if depth == len(segments):
                if node.end is not None:
                    key, names = node.end
                    return key, dict(zip(names, values, strict=True))
                continue
            segment = segments[depth]
            if node.parameter is not None and segment and (text := _decoded(segment)) is not None:
                stack.append((node.parameter, depth + 1, (*values, text)))
            literal = node.literals.get(segment)
            if literal is not None:
                stack.append((literal, depth + 1, values))
        return None


class _Absent:
    """Told apart from every key, None included."""


_ABSENT = _Absent()


def _prefix(path: str, depth: int) -> str:
    """Return the first `depth` segments of a path, each with its slash in front."""
    return "/".join(path.split("/", depth + 1)[: depth + 1])


def _decoded(segment: str) -> str | None:
    """Return a parameter's text; None if its bytes are not UTF-8.

    RFC 3986 2.5 has characters escaped as their UTF-8 bytes. Other bytes spell no text, so the template does not
    match; a mount, whose app gets the bytes themselves, still does.
    """
    if "%" not in segment:
        return segment
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
