"""wrk: the load, and what it saw.

    Request ─► lua script in a temporary file ─► wrk ─► one line of numbers ─► Load

A run with any socket error or any answer but 2xx is no measurement: it raises.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Load", "NoWrk", "Request", "find_wrk", "run"]

# `done` gets exact numbers, in µs; wrk's own text rounds them.
_SCRIPT = """
local file = io.open({body_path!r}, "rb")
wrk.method = "POST"
wrk.body = file:read("*all")
wrk.headers["Content-Type"] = "{content_type}"
file:close()
{vary}
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("\\nMEASURED %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.bytes,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


_VARY = """
local count = 0
request = function()
  count = count + 1
  wrk.headers["X-Request-Id"] = string.format("%010d", count)
  return wrk.format()
end
"""


class NoWrk(Exception):
    """wrk is not installed."""


class Request(NamedTuple):
    """What is sent again and again.

    Attributes:
        path: where to.
        body: what.
        content_type: said in the header.
        least_bytes: that the body of an answer has, so that answers cut short do not pass.
        vary: no two heads are the same.
    """

    path: str
    body: bytes
    content_type: str = "application/json"
    least_bytes: int = 0
    vary: bool = False


class Load(NamedTuple):
    """What wrk saw.

    Attributes:
        requests: answered with 2xx.
        seconds: that it took.
        p50_ms: median latency.
        p99_ms: latency that 1 % exceeded.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def find_wrk() -> str:
    """Return the path of wrk.

    Raises:
        NoWrk: it is not there; the message says how to get it.
    """
    path = shutil.which("wrk")
    if path is None:
        raise NoWrk("the benchmarks need wrk: apt install wrk (Debian, Ubuntu) or brew install wrk (macOS)")
    return path


def run(url: str, request: Request, connections: int, seconds: float) -> Load:
    """Send `request` to the server at `url` over keep-alive connections, as fast as it answers.

    Raises:
        RuntimeError: wrk failed, or something was not answered with 2xx.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        body, script = Path(folder) / "body", Path(folder) / "request.lua"
        body.write_bytes(request.body)
        vary = _VARY if request.vary else ""
        script.write_text(_SCRIPT.format(body_path=str(body), content_type=request.content_type, vary=vary))
        duration = f"{max(1, round(seconds))}s"
        done = subprocess.run(
            [find_wrk(), "-t1", f"-c{connections}", f"-d{duration}", "-s", str(script), f"{url}{request.path}"],
            capture_output=True, text=True, timeout=seconds + 30, check=False,
        )  # fmt: skip
    measured = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MEASURED")]
    if done.returncode or not measured:
        raise RuntimeError(f"wrk failed against {url}{request.path}:\n{done.stdout}{done.stderr}")
    requests, micros, p50, p99, received, errors = (int(number) for number in measured[0])
    if errors or not requests:
        raise RuntimeError(f"{errors} of {requests} requests to {url}{request.path} failed:\n{done.stdout}")
    if received < requests * request.least_bytes:
        raise RuntimeError(f"{requests} answers of {url}{request.path} had only {received} bytes")
    return Load(requests, micros / 1e6, p50 / 1e3, p99 / 1e3)
