"""Random heads: good ones come back as sent, any bytes are served or refused, and h11 agrees on what is served."""

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.raw_heads import GOOD_FIELDS, GOOD_LINES, LIMITS, parsed

from rayserve.ingress.grammar import METHODS
from rayserve.ingress.head import Refusal, check_partial, parse_head

TOKENS = st.text("abcXYZ09-!#$%&'*+.^`|~", min_size=1, max_size=12)
VALUES = st.text([*map(chr, range(0x21, 0x7F)), *map(chr, range(0x80, 0x100)), " ", "\t"], max_size=20)


@given(
    method=st.sampled_from(sorted(METHODS.values())),
    path=st.lists(st.sampled_from(["a", "Z9", "/", "%41", "%e9", "~", "|", "[", "=", ":"])).map(
        lambda p: "/" + "".join(p)
    ),
    query=st.text([*map(chr, range(0x24, 0x7F)), "!", '"']),
    fields=st.lists(st.tuples(TOKENS, VALUES), max_size=10),
    minor=st.integers(0, 1),
)
def test_good_heads_round_trip(method: str, path: str, query: str, fields: list[tuple[str, str]], minor: int) -> None:
    fields = [(f"x{name}", value) for name, value in fields]  # no field that means something
    lines = [f"{name}: {value}".encode("latin-1") for name, value in fields]
    head = parsed(*lines, line=f"{method} {path}?{query} HTTP/1.{minor}".encode("ascii"))
    assert (head.method, head.target, head.query) == (method, path, query.encode())
    assert head.headers == [("host", "a"), *((name.lower(), value.strip(" \t")) for name, value in fields)]
    assert head.version == (1, minor)


@st.composite
def near_heads(draw: st.DrawFn) -> bytes:
    """Heads that are right or nearly so: known parts, then a few bytes inserted, replaced or taken out."""
    parts = [draw(st.sampled_from(GOOD_LINES)), b"Host: a", *draw(st.lists(st.sampled_from(GOOD_FIELDS), max_size=4))]
    raw = bytearray(b"\r\n".join(parts) + b"\r\n\r\n")
    for place, replaced, byte in draw(EDITS):
        place %= len(raw) - 4
        raw[place : place + replaced] = byte
    return bytes(raw[: raw.find(b"\r\n\r\n") + 4])


EDITS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 2),
        st.one_of(
            st.just(b""), st.binary(min_size=1, max_size=1), st.sampled_from(b"\r\n\t :,/%").map(lambda b: bytes([b]))
        ),
    ),
    max_size=3,
)


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda b: b + b"\r\n\r\n"), near_heads()))
@example(b"")
@example(b"\r\n\r\n")
@example(b"GET / HTTP/1.1\r\n")
@example(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
def test_any_bytes_are_served_or_refused(raw: bytes) -> None:
    for judge in (parse_head, check_partial):
        try:
            judge(raw, LIMITS)
        except Refusal as refusal:
            assert refusal.status in (400, 414, 417, 431, 501, 505)
            assert refusal.detail.isascii()
            assert refusal.detail.isprintable()


@settings(max_examples=500)
@given(near_heads())
def test_what_we_serve_h11_serves_alike(raw: bytes) -> None:
    """Each head that we accept means the same to h11, which shares no code with us or llhttp.

    Two differences are known and skipped: h11 keeps no HTTP/1.0 connection, and takes an Upgrade without its connection
    option for one (RFC 9110 section 7.8 does not).
    """
    try:
        head = parse_head(raw, LIMITS)
    except Refusal:
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(raw)
    request = peer.next_event()
    assert isinstance(request, h11.Request)
    assert request.method == head.method.encode()
    if request.target.startswith(b"/"):  # h11 leaves the other forms as they are
        path, _, query = request.target.partition(b"?")
        assert (path, query) == (head.target.encode(), head.query)
    theirs = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
    assert all(field in theirs for field in head.headers if field != ("host", head.host))
    lengths = [int(value) for name, value in theirs if name == "content-length"]
    assert lengths == ([] if head.content_length is None else [head.content_length])
    assert ("transfer-encoding" in dict(theirs)) is head.chunked
    if head.chunked or head.content_length:
        assert peer.they_are_waiting_for_100_continue is head.expect_continue
    else:
        assert isinstance(peer.next_event(), h11.EndOfMessage)
        if head.version == (1, 1) and "upgrade" not in head.fields:
            assert (peer.their_state is h11.DONE) is head.keep_alive
