"""A driver that calls `serve.init` once and then runs what it is told, so that a dozen scripts share one Ray.

    stdin: {"path": script} | {"page": name, "code": block} | {"clear": true} ──► stdout: {"out", "error", "kinds"}

Blocks of one page share a namespace, as a reader's session would. `clear` forgets all pages and removes every endpoint
and backend, so that the next one may use the same names.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import socket
import sys
import traceback
from contextlib import redirect_stdout
from typing import Any

import rayserve as serve

PORT = 8000


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def run(order: dict[str, Any], pages: dict[str, dict[str, Any]]) -> None:
    if "path" in order:
        runpy.run_path(order["path"], run_name="__main__")
    elif "code" in order:
        namespace = pages.setdefault(order["page"], {"__name__": "__main__"})
        exec(compile(order["code"], order["page"], "exec", dont_inherit=True), namespace)
    else:
        pages.clear()
        for name in serve.list_endpoints():
            serve.delete_endpoint(name)
        for tag in serve.list_backends():
            serve.delete_backend(tag)


def main() -> None:
    # Ray and its processes may write to stdout; answers must not mix with that.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # The seed names port 8000. Where another program has it, the tests write the other port into the seed.
    instance = serve.init(http_port=PORT if is_free(PORT) else 0, ray_init_kwargs={"log_to_driver": False})
    answers.write(json.dumps({"url": instance.url}) + "\n")
    answers.flush()
    pages: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        out = io.StringIO()
        error, kinds = "", []
        try:
            with redirect_stdout(out):
                run(json.loads(line), pages)
        except Exception as raised:
            error = traceback.format_exc()
            kinds = [kind.__name__ for kind in type(raised).__mro__]
        answers.write(json.dumps({"out": out.getvalue(), "error": error, "kinds": kinds}) + "\n")
        answers.flush()
    serve.shutdown()


if __name__ == "__main__":
    main()
