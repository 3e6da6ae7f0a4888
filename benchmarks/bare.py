"""A Ray actor that does nothing, in a module that imports nothing: what Ray itself costs per process."""

__all__ = ["Bare"]


class Bare:
    """The actor."""

    def ping(self) -> None:
        """Return, which shows that the process is up."""
