"""An ingress process with nothing in front of its router: it answers every request with one line of JSON about itself.

The doorkeeper's tests run it in place of `python -m rayserve.ingress`. `options["behave"]` makes it misbehave:
"die at start", "never ready", "deaf" (does not put tables in force after the first), "no drain" (ignores SIGTERM).
`GET /die` ends it with exit code 7, `GET /log` writes to stdout and stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time

from rayserve.feed.messages import Welcome
from rayserve.feed.subscriber import Subscriber
from rayserve.ingress.process import adopt_priorities, announce_ready, exit_when_stdin_closes
from rayserve.model.facts import Facts
from rayserve.model.table import RoutingTable


class FakeIngress:
    def __init__(self, told: dict[str, object]) -> None:
        self.told = told
        options = told["options"]
        assert isinstance(options, dict)
        self.behave = options.get("behave", "")
        self.table: RoutingTable | None = None
        self.tabled = asyncio.Event()
        self.answered = 0
        self.secret = ""

    def on_welcome(self, welcome: Welcome) -> None:
        self.secret = welcome.secret.decode()

    def on_table(self, table: RoutingTable) -> None:
        if self.behave == "deaf" and self.table is not None:
            time.sleep(60)
        self.table = table
        self.tabled.set()

    def facts(self) -> Facts:
        return Facts(str(self.told["process"]), "ingress", connections=self.answered)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        if path == "/die":
            os._exit(7)
        if path == "/log":
            print("to stdout", flush=True)
            print("to stderr", file=sys.stderr, flush=True)
        self.answered += 1
        about = {
            "pid": os.getpid(),
            "index": self.told["index"],
            "process": self.told["process"],
            "version": self.table.version if self.table else None,
            "secret": self.secret,
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "blocked": sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        }
        body = json.dumps(about).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, (lambda: None) if self.behave == "no drain" else done.set)
        exit_when_stdin_closes(loop)
        subscriber = Subscriber(
            f"{self.told['run_dir']}/feed.sock",
            process=str(self.told["process"]),
            kind="ingress",
            on_welcome=self.on_welcome,
            on_table=self.on_table,
            facts=self.facts,
        )
        subscriber.start()
        await self.tabled.wait()
        descriptor = self.told["fd"]
        assert isinstance(descriptor, int)
        server = await asyncio.start_server(self.answer, sock=socket.socket(fileno=descriptor))
        announce_ready()
        await done.wait()
        server.close()
        print("drained", file=sys.stderr, flush=True)


def main() -> None:
    told = json.loads(sys.stdin.buffer.readline())
    ingress = FakeIngress(told)
    if ingress.behave == "die at start":
        sys.exit("no such luck")
    if ingress.behave == "never ready":
        sys.stdin.read()
        sys.exit(0)
    adopt_priorities()
    asyncio.run(ingress.main())


if __name__ == "__main__":
    main()
