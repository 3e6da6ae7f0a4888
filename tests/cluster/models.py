"""User code of the API tests: a module of the driver's own, found by replicas through its sys.path."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def echo(request: Any) -> str:
    return "hello " + str(request.args.get("name", "serve!"))


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def __call__(self, request: Any) -> dict[str, int]:
        self.count += 1
        return {"current_counter": self.count}


class Pid:
    """Answers with its process id and its config; `reconfigure` refuses "bad"."""

    def __init__(self) -> None:
        self.config: Any = None

    def __call__(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "config": self.config}

    def reconfigure(self, config: Any) -> None:
        if config == "bad":
            raise ValueError("this config is bad")
        self.config = config


class Fragile:
    """Raises in its constructor."""

    def __init__(self, why: str) -> None:
        raise OSError(why)

    def __call__(self) -> str:
        return "never"


class Slow:
    """Says that its constructor was entered, and waits there until a file appears."""

    def __init__(self, folder: str) -> None:
        Path(folder, f"entered-{os.getpid()}").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)

    def __call__(self) -> str:
        return "ready at last"


instance = Counter()
