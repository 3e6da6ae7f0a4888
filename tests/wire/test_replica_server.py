"""The replica's sockets, where threads meet."""

import threading
from typing import Any

import pytest
from tests.wire.mini import Mini


def test_what_is_watched_is_changed_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that saw nothing wait could have the last word, and bytes would wait for ever."""
    with Mini() as mini:
        mini.backend("b", lambda: "hello").endpoint("e", "/e", {"b": 1.0}).publish()
        assert mini.handle("e").remote().result(10) == "hello"
        server = next(iter(mini.replicas.values()))._server
        peer = next(iter(server._peers.values()))
        change = server._poller.change
        second = threading.Thread(target=server._watch_writes, args=(peer,))
        callers: list[int] = []
        met = threading.Event()

        def slow_change(*args: Any) -> Any:
            callers.append(threading.get_ident())
            if len(callers) == 1:
                second.start()
                assert not met.wait(0.1), "the other thread came in between"
            else:
                met.set()
            return change(*args)

        peer.link.unsent += 1
        monkeypatch.setattr(server._poller, "change", slow_change)
        server._watch_writes(peer)
        second.join(10)
        peer.link.unsent -= 1
