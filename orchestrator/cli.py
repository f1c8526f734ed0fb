"""The command `saccade`. Imports happen inside the commands, so that help is there at once."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands import catalogs, computing, keeping, reading
from orchestrator.standard_streams import standard_streams
from results.import_path import leave_out_current_folder

COMMANDS = {
    "plan": computing.plan,
    "run": computing.run,
    "report": reading.report,
    "dashboard": reading.dashboard,
    "figure": reading.figure,
    "export": reading.export,
    "compare": reading.compare,
    "table": reading.table,
    "import": keeping.import_,
    "latency": computing.latency,
    "calibrate": computing.calibrate,
    "bench": computing.bench,
    "ablate": computing.ablate,
    "status": reading.status,
    "list": catalogs.shipped,
    "show": catalogs.show,
    "init": catalogs.init,
    "strategies": catalogs.strategies,
    "tasks": catalogs.tasks,
    "merge": keeping.merge,
    "migrate": keeping.migrate,
    "rescore": keeping.rescore,
    "verify": keeping.verify,
    "doctor": computing.doctor,
    "tune": keeping.tune,
}
HANDED_ON = {"bench": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}}

app = typer.Typer(
    name="saccade",
    help="What does a vision-language model lose when visual tokens are dropped: by which rule, where, and how many?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from workers.saccade_version import saccade_version

        typer.echo(f"saccade {saccade_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and exit.")
    ] = False,
) -> None: ...


for name, command in COMMANDS.items():
    app.command(name, context_settings=HANDED_ON.get(name))(command)


def main() -> None:
    """Entry point of the script."""
    leave_out_current_folder()
    with standard_streams():
        app()
