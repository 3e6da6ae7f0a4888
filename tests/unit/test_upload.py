"""Bodies that travel as DATA: credit, pieces, and what is kept for another attempt."""

from hypothesis import given
from hypothesis import strategies as st

from rayserve.router.call import Upload
from rayserve.wire.codec import CREDIT, DATA, END, MAX_DATA, Decoder


def sent(upload: Upload, stream: int = 7) -> tuple[bytes, bool]:
    """Return the payload of all frames that may be sent now, and whether the last one carried END."""
    decoder, payload, ended = Decoder(), b"", False
    for parts in upload.frames(stream):
        assert not ended, "nothing follows END"
        for kind, flags, number, _, _, body in decoder.feed(b"".join(parts)):
            assert (kind, number) == (DATA, stream)
            assert len(body) <= MAX_DATA
            payload += body
            ended = ended or bool(flags & END)
    return payload, ended


def full(*pieces: bytes) -> Upload:
    upload = Upload()
    for piece in pieces:
        upload.push(piece)
    upload.ended = True
    return upload


def test_a_body_leaves_whole_and_once() -> None:
    upload = full(b"abc", b"", b"def")

    assert sent(upload) == (b"abcdef", True)
    assert sent(upload) == (b"", False)


def test_an_empty_body_is_one_end_frame() -> None:
    upload = full()

    assert sent(upload) == (b"", True)
    assert sent(upload) == (b"", False)


def test_no_more_leaves_than_the_credit() -> None:
    upload = full(b"x" * (CREDIT + 10))

    assert sent(upload) == (b"x" * CREDIT, False)
    upload.granted = True
    upload.credit += 3
    assert sent(upload) == (b"xxx", False)
    upload.credit += 100
    assert sent(upload) == (b"x" * 7, True)


def test_until_credit_came_the_body_is_kept_for_another_attempt() -> None:
    upload = full(b"a" * 100_000, b"b" * 300_000)
    first, _ = sent(upload)
    upload.rewind()

    assert upload.size == 400_000
    assert sent(upload) == (first, False)


def test_after_credit_came_what_was_sent_is_let_go() -> None:
    upload = full(b"a" * 100_000, b"b" * 300_000)
    sent(upload)
    upload.granted = True
    upload.credit += 10_000
    sent(upload)

    assert sum(len(piece) for piece in upload.kept) == 300_000
    upload.credit += CREDIT
    assert sent(upload)[1]
    assert not upload.kept


@given(
    pieces=st.lists(st.binary(max_size=200_000), max_size=8),
    grants=st.lists(st.integers(1, 300_000), max_size=8),
    rewinds=st.booleans(),
)
def test_whatever_the_grants_the_bytes_arrive_in_order(pieces: list[bytes], grants: list[int], rewinds: bool) -> None:
    upload, came, ended = Upload(), b"", False
    for piece in pieces:
        upload.push(piece)
        data, _ = sent(upload)
        came += data
    if rewinds:
        upload.rewind()
        came = b""
    upload.ended = True
    for grant in [0, *grants, 8 * 200_000]:
        if grant:
            upload.granted = True
            upload.credit += grant
        data, end = sent(upload)
        came += data
        ended = ended or end

    assert ended
    assert came == b"".join(pieces)
    assert upload.size == 0


def test_tiny_pieces_that_were_sent_are_kept_joined() -> None:
    upload, body = Upload(), b""
    for number in range(1000):
        piece = b"%d," % number
        upload.push(piece)
        body += piece
        assert sent(upload) == (piece, False)
        assert len(upload.kept) <= 300
    upload.ended = True
    upload.rewind()

    assert sent(upload) == (body, True)
