"""On what was measured: processor, cores, memory, kernel, versions, date."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import rayserve

__all__ = ["facts"]

_PACKAGES = ("ray", "uvloop", "httptools", "Flask", "uvicorn", "gunicorn", "fastapi", "websockets", "scikit-learn")


def facts() -> dict[str, str]:
    """Return what a reader must know to compare."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": f"{os.cpu_count()}, shared by servers and load generator",
        "memory": f"{int((_field('/proc/meminfo', 'MemTotal') or '0').split()[0]) / 2**20:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join([f"rayserve {rayserve.__version__}", *(f"{name} {version(name)}" for name in _PACKAGES)]),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
