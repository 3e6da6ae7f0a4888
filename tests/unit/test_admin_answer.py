"""Every answer is closed to browsers, and no name on the page is markup."""

from __future__ import annotations

import pytest

from rayserve.admin.answer import HTML, TEXT, page, rendered


def parts(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *rows = head.decode("ascii").split("\r\n")
    return line, {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}, body


@pytest.mark.parametrize(("status", "line"), [(200, "HTTP/1.1 200 OK"), (421, "HTTP/1.1 421 Misdirected Request")])
def test_every_answer_carries_the_same_guards(status: int, line: str) -> None:
    found, headers, body = parts(rendered(status, TEXT, b"words\n"))
    assert found == line
    assert headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert headers["content-length"] == "6"
    assert not [name for name in headers if name.startswith("access-control-")]
    assert body == b"words\n"


def test_head_is_told_the_size_and_nothing_else() -> None:
    _, headers, body = parts(rendered(200, HTML, b"<p>", bare=True))
    assert (headers["content-length"], body) == ("3", b"")


def test_names_and_words_on_the_page_are_escaped() -> None:
    bad = "<script>alert('x')</script>\"&"
    text = page({"instance": bad, "endpoints": {bad: bad}, "backends": {bad: bad}, "nodes": {}}).decode()
    assert "<script>" not in text
    assert text.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;") == 6


def test_the_page_names_both_paths_and_what_runs() -> None:
    text = page({"instance": "default", "endpoints": {"classify": 'GET /classify: 1 to "v1"'}, "backends": {}}).decode()
    assert 'href="/metrics"' in text
    assert 'href="/status"' in text
    assert "<th>classify</th>" in text
    assert "<h2>backends</h2>\n<p>none</p>" in text
