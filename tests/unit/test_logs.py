"""User prints: tagged line by line, from many threads, and never the reason that a call fails."""

import io
import threading

from rayserve.replica.logs import Tagged


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_whole_lines_go_out_with_their_tag() -> None:
    file, beneath = io.StringIO(), io.StringIO()
    stream = Tagged("b#1", file, beneath)
    print("one\ntwo", file=stream)
    print("three", end="", file=stream)
    assert file.getvalue() == beneath.getvalue() == "[b#1] one\n[b#1] two\n"
    print(file=stream)

    assert file.getvalue().endswith("[b#1] three\n")


def test_lines_of_many_threads_are_neither_torn_nor_lost() -> None:
    file = io.StringIO()
    stream = Tagged("b", file, io.StringIO())

    def chatter(name: int) -> None:
        for number in range(200):
            stream.write(f"{name} {number}\n")

    threads = [threading.Thread(target=chatter, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    lines = file.getvalue().splitlines()
    assert sorted(lines) == sorted(f"[b] {name} {number}" for name in range(8) for number in range(200))


def test_a_full_disk_does_not_fail_a_print() -> None:
    file = io.StringIO()
    for stream in (Tagged("b", Full(), file), Tagged("b", file, Full())):
        print("still here", file=stream, flush=True)

    assert file.getvalue() == 2 * "[b] still here\n"
