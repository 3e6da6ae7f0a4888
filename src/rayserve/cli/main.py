"""The command line as users see it: commands, options, help. What the commands do is in the other files.

Each command imports what it needs when it runs, so `rayserve --help` neither loads ray nor waits for anything.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rayserve import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="rayserve",
    help="Serve models, or any Python, behind HTTP on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # what we foresee is said in words; the rest wants Python's own traceback
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Option(help="Name of the instance.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join, host:port. Without it: RAY_ADDRESS, else the Ray on this machine."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rayserve {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(short_help="Start an instance and serve what a function makes.")
def run(
    target: Annotated[
        str,
        typer.Argument(metavar="MODULE:FUNCTION", help="Function without arguments that makes backends and endpoints."),
    ],
    host: Annotated[
        str, typer.Option(help='Where to listen; 0.0.0.0 for all, "node" for each node\'s own address.')
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0 picks a free one.")] = 8000,
    name: Name = "default",
    address: Address = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=VALUE", help="HTTP option, e.g. -o access_log=true; may be repeated."
        ),
    ] = None,
) -> None:
    """Start an instance, call a function that makes its backends and endpoints, and serve until Ctrl-C.

    The module is looked for in the current directory first. If Ray was started here, Ctrl-C or SIGTERM finishes
    accepted requests and stops everything; in a cluster that was joined, the instance goes on.
    """
    from rayserve.cli.failure import in_words
    from rayserve.cli.run import serve_target

    with in_words():
        serve_target(target, host, port, name, address, option or [])


@app.command(short_help="Say what runs, starts, fails and waits.")
def status(name: Name = "default", address: Address = None, as_json: AsJson = False) -> None:
    """Say what runs, starts, fails and waits; exit code 1 if the instance does not run."""
    from rayserve.cli.failure import in_words
    from rayserve.cli.look import show_status

    with in_words():
        show_status(name, address, as_json)


@app.command(short_help="List routes, endpoints and traffic.")
def routes(name: Name = "default", address: Address = None, as_json: AsJson = False) -> None:
    """List routes, their endpoints and where the traffic goes; exit code 1 if the instance does not run."""
    from rayserve.cli.failure import in_words
    from rayserve.cli.look import show_routes

    with in_words():
        show_routes(name, address, as_json)


@app.command(short_help="Stop an instance.")
def shutdown(
    name: Name = "default",
    address: Address = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Finish accepted requests and stop the instance; exit code 1 if it does not run."""
    from rayserve.cli.failure import in_words
    from rayserve.cli.stop import stop_instance

    with in_words():
        stop_instance(name, address, yes)


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="rayserve")
