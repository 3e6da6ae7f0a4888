"""The handshake: who belongs together opens a link, everybody else is refused with a reason."""

import hmac
from collections.abc import Callable
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.wire.codec import CHALLENGE, HELLO, OPEN, PROOF, WELCOME, Decoder, Frame, Violation, frame
from rayserve.wire.handshake import HANDSHAKE_BYTES, VERSION, ClientHandshake, Refused, ServerHandshake

SECRET = b"a secret of the instance, 32 B.."
OTHER = b"a secret of another one, 32 B..."
NONCE = bytes(range(32))

encode = msgspec.msgpack.encode
Tamper = Callable[[Frame], Frame]


def client(
    secret: bytes | None = SECRET, role: str = "ingress", instance: str = "shop", replica: str = "r#1"
) -> ClientHandshake:
    return ClientHandshake(role, instance, replica, secret)


def server(secret: bytes | None = SECRET, instance: str = "shop", replica: str = "r#1") -> ServerHandshake:
    return ServerHandshake(instance, replica, secret)


def cut(data: bytes) -> Frame:
    found = Decoder().feed_handshake(data)
    assert found is not None
    return found


def meet(calls: ClientHandshake, answers: ServerHandshake, tamper: Tamper = lambda found: found) -> list[int]:
    """Carry frames between both until neither has one to send; return their kinds."""
    kinds = []
    said: bytes | None = calls.start()
    assert answers.start() == b""
    sides: tuple[ClientHandshake | ServerHandshake, ...] = (answers, calls)
    turn = 0
    while said is not None:
        found = tamper(cut(said))
        kinds.append(found[0])
        said = sides[turn % 2].feed(found)
        turn += 1
    return kinds


@pytest.mark.parametrize("role", ["ingress", "handle"])
@pytest.mark.parametrize("secret", [None, SECRET], ids=["unix", "tcp"])
def test_who_belongs_together_opens_a_link(secret: bytes | None, role: str) -> None:
    calls, answers = client(secret, role), server(secret)
    kinds = meet(calls, answers)
    assert kinds == ([HELLO, CHALLENGE, PROOF, WELCOME] if secret else [HELLO, WELCOME])
    assert calls.done and answers.done
    assert answers.role == role
    assert calls.eager == (secret is None)


def test_a_board_is_known_once_the_link_is_open() -> None:
    answers = server(None)
    assert answers.board == ""
    meet(ClientHandshake("ingress", "shop", "r#1", None, "b-0123"), answers)
    assert answers.board == "b-0123"


@given(st.text(max_size=60), st.text(max_size=60), st.binary(min_size=16, max_size=64))
def test_names_and_keys_of_any_kind_open_a_link(instance: str, replica: str, secret: bytes) -> None:
    calls, answers = client(secret, "handle", instance, replica), server(secret, instance, replica)
    meet(calls, answers)
    assert calls.done and answers.done


def test_the_whole_handshake_fits_its_budget() -> None:
    calls, answers = client(instance="i" * 200, replica="r" * 300), server(instance="i" * 200, replica="r" * 300)
    sizes = []

    def measured(found: Frame) -> Frame:
        sizes.append(16 + len(found[4]) + len(found[5]))
        return found

    meet(calls, answers, measured)
    assert max(sizes) <= 1024 and sum(sizes) <= HANDSHAKE_BYTES


@pytest.mark.parametrize("secret", [None, SECRET], ids=["unix", "tcp"])
@pytest.mark.parametrize(
    ("reason", "calls", "why"),
    [
        ("replica", {"replica": "r#0"}, "replica does not match: here 'r#1', the peer says 'r#0'"),
        ("instance", {"instance": "shop2"}, "instance does not match: here 'shop', the peer says 'shop2'"),
    ],
)
def test_a_caller_of_somebody_else_is_refused(
    secret: bytes | None, reason: str, calls: dict[str, str], why: str
) -> None:
    answers = server(secret)
    with pytest.raises(Refused, match=why) as refused:
        meet(client(secret, **calls), answers)
    assert refused.value.reason == reason
    assert not answers.done and answers.role == ""


@pytest.mark.parametrize(
    ("reason", "hello"),
    [
        ("version", [VERSION + 1, "ingress", "shop", "r#1", NONCE, "", "a field of tomorrow"]),
        ("version", [0, "ingress", "shop", "r#1", NONCE]),
        ("role", [VERSION, "doorkeeper", "shop", "r#1", NONCE]),
        ("role", [VERSION, "", "shop", "r#1", NONCE]),
        ("garbled", [VERSION, "ingress", "shop", "r#1"]),
        ("garbled", [VERSION, "ingress", "shop", "r#1", NONCE[1:]]),
        ("garbled", [VERSION, "ingress", "shop"]),
        ("garbled", [VERSION, "ingress", "shop", "r#1", NONCE, "b-0123"]),  # shared memory with another node
        ("garbled", ["1", "ingress", "shop", "r#1", NONCE]),
        ("garbled", {}),
        ("garbled", None),
    ],
)
def test_a_hello_that_will_not_do_is_refused(reason: str, hello: object) -> None:
    answers = server()
    with pytest.raises(Refused) as refused:
        answers.feed(cut(frame(HELLO, 0, 0, encode(hello))))
    assert refused.value.reason == reason
    assert not answers.done


def test_a_wrong_key_is_refused_by_the_caller_first() -> None:
    calls, answers = client(SECRET), server(OTHER)
    with pytest.raises(Refused, match="the server of the link does not hold the secret of instance 'shop'") as refused:
        meet(calls, answers)
    assert refused.value.reason == "key"
    assert not calls.done and not answers.done


def test_a_caller_without_the_key_is_refused() -> None:
    answers = server()
    challenge = answers.feed(cut(frame(HELLO, 0, 0, encode([VERSION, "handle", "shop", "r#1", NONCE]))))
    assert challenge is not None
    with pytest.raises(Refused, match="the client of the link does not hold the secret") as refused:
        answers.feed(cut(frame(PROOF, 0, 0, encode([bytes(32)]))))
    assert refused.value.reason == "key"
    assert not answers.done and answers.role == ""


def test_a_reflected_mac_proves_nothing() -> None:
    answers = server()
    challenge = answers.feed(cut(frame(HELLO, 0, 0, encode([VERSION, "handle", "shop", "r#1", NONCE]))))
    assert challenge is not None
    _, mac = msgspec.msgpack.decode(cut(challenge)[4])
    with pytest.raises(Refused) as refused:
        answers.feed(cut(frame(PROOF, 0, 0, encode([mac]))))
    assert refused.value.reason == "key"


def test_a_replayed_conversation_is_refused() -> None:
    recorded: list[Frame] = []

    def recording(found: Frame) -> Frame:
        recorded.append(found)
        return found

    meet(client(), server(), recording)
    hello, challenge, proof, welcome = recorded
    later = server()
    assert later.feed(hello) is not None
    with pytest.raises(Refused) as refused:
        later.feed(proof)
    assert refused.value.reason == "key"
    caller = client()
    caller.start()
    with pytest.raises(Refused) as refused:
        caller.feed(challenge)
    assert refused.value.reason == "key"
    with pytest.raises(Refused):
        client().feed(welcome)


@pytest.mark.parametrize("secret", [None, SECRET], ids=["unix", "tcp"])
def test_a_second_hello_is_refused(secret: bytes | None) -> None:
    answers = server(secret)
    hello = cut(client(secret).start())
    assert answers.feed(hello) is not None
    with pytest.raises(Refused, match="got HELLO") as refused:
        answers.feed(hello)
    assert refused.value.reason == "unexpected"


@pytest.mark.parametrize(
    ("kind", "at", "new"),
    [
        (HELLO, 1, "handle"),  # an ingress that would like to send pickles
        (HELLO, 4, NONCE),
        (CHALLENGE, 0, NONCE),
        (CHALLENGE, 1, bytes(32)),
        (CHALLENGE, 1, b""),
        (PROOF, 0, bytes(32)),
        (PROOF, 0, b""),
    ],
)
def test_nobody_between_can_change_a_word(kind: int, at: int, new: object) -> None:
    def changed(found: Frame) -> Frame:
        if found[0] != kind:
            return found
        fields = msgspec.msgpack.decode(found[4])
        fields[at] = new
        return (*found[:4], encode(fields), found[5])

    answers = server()
    with pytest.raises(Refused) as refused:
        meet(client(), answers, changed)
    assert refused.value.reason == "key"
    assert not answers.done


def test_a_link_is_not_carried_to_another_replica() -> None:
    """Whoever stands between relays a caller's HELLO, renamed, to a replica of his choice."""
    calls, answers = client(replica="r#1"), server(replica="r#2")
    hello = msgspec.msgpack.decode(cut(calls.start())[4])
    hello[3] = "r#2"
    challenge = answers.feed(cut(frame(HELLO, 0, 0, encode(hello))))
    assert challenge is not None
    with pytest.raises(Refused) as refused:
        calls.feed(cut(challenge))
    assert refused.value.reason == "key"


def test_a_server_that_skips_the_proof_is_refused() -> None:
    calls = client()
    calls.start()
    with pytest.raises(Refused, match="expected CHALLENGE, got WELCOME") as refused:
        calls.feed(cut(frame(WELCOME, 0, 0, encode([VERSION, "r#1"]))))
    assert refused.value.reason == "unexpected"


def test_unix_and_tcp_do_not_mix() -> None:
    with pytest.raises(Refused, match="HELLO with a nonce of 0 bytes, not 32"):
        meet(client(None), server(SECRET))
    with pytest.raises(Refused, match="HELLO with a nonce of 32 bytes, not 0"):
        meet(client(SECRET), server(None))


@pytest.mark.parametrize(
    ("reason", "welcome"),
    [("version", [2, "r#1"]), ("replica", [1, "r#2"]), ("garbled", [1]), ("garbled", "welcome")],
)
def test_a_welcome_of_somebody_else_is_refused(reason: str, welcome: object) -> None:
    calls = client(None)
    with pytest.raises(Refused) as refused:
        calls.feed(cut(frame(WELCOME, 0, 0, encode(welcome))))
    assert refused.value.reason == reason
    assert not calls.done


def started(side: str, secret: bytes | None, frames: int) -> ClientHandshake | ServerHandshake:
    """One side, after `frames` frames from its peer."""
    calls, answers = client(secret), server(secret)
    watched = calls if side == "client" else answers
    said: bytes | None = calls.start()
    taken = 0
    for taker in (answers, calls, answers, calls):
        if taken == frames:
            break
        assert said is not None
        said = taker.feed(cut(said))
        taken += taker is watched
    return watched


@pytest.mark.parametrize(("side", "secret"), list(product(["client", "server"], [None, SECRET])))
@pytest.mark.parametrize("kind", [HELLO, CHALLENGE, PROOF, WELCOME, OPEN])
def test_frames_out_of_turn_are_refused(side: str, secret: bytes | None, kind: int) -> None:
    awaited = {
        ("client", None): [WELCOME],
        ("client", SECRET): [CHALLENGE, WELCOME],
        ("server", None): [HELLO],
        ("server", SECRET): [HELLO, PROOF],
    }[side, secret]
    for step in range(len(awaited) + 1):
        hand = started(side, secret, step)
        assert hand.done == (step == len(awaited))
        if step < len(awaited) and kind == awaited[step]:
            continue
        with pytest.raises(Refused) as refused:
            hand.feed((kind, 0, 0, 0, encode([VERSION, "r#1"]), b""))
        assert refused.value.reason == "unexpected"


@given(
    st.sampled_from([("client", None, 0), ("client", SECRET, 0), ("client", SECRET, 1)])
    | st.sampled_from([("server", None, 0), ("server", SECRET, 0), ("server", SECRET, 1)]),
    st.sampled_from([HELLO, CHALLENGE, PROOF, WELCOME]),
    st.binary(max_size=200),
)
def test_garbage_is_refused(at: tuple[str, bytes | None, int], kind: int, head: bytes) -> None:
    hand = started(*at)
    with pytest.raises(Refused):
        hand.feed((kind, 0, 0, 0, head, b""))
    assert not hand.done


@pytest.mark.parametrize("head", [b"\x95\x01\xa2\xff\xfe", b"\x97\x01\xa0\xa0\xa0\xc4\x00\xa0" + b"\x91" * 1000])
def test_text_that_is_none_and_nests_without_end_are_garbled(head: bytes) -> None:
    with pytest.raises(Refused) as refused:
        server().feed((HELLO, 0, 0, 0, head, b""))
    assert refused.value.reason == "garbled"


@pytest.mark.parametrize("secret", [b"", b"short"])
def test_an_unset_secret_never_opens_tcp_to_everybody(secret: bytes) -> None:
    with pytest.raises(ValueError, match="needs at least 16"):
        client(secret)
    with pytest.raises(ValueError, match="needs at least 16"):
        server(secret)


def test_an_unknown_role_is_a_slip_of_ours() -> None:
    with pytest.raises(ValueError, match="role of a link is one of"):
        client(role="replica")


def test_a_refusal_is_a_violation_to_who_drives_the_link() -> None:
    assert issubclass(Refused, Violation)


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    meet(client(SECRET), server(OTHER))
    assert len(compared) == 2 and all(len(ours) == len(theirs) == 32 for ours, theirs in compared)
