"""`echo-core dev`: running the workshop's plugins, each swapped when it is saved."""

import functools
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.drive import Service
from echo_core.cli.output import error_text
from echo_core.cli.run import control_of, run_host
from echo_core.cli.session import SessionArgument
from echo_core.errors import EchoCoreError
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.settings import load_settings
from echo_core.workshop.reload import Reloader
from echo_core.workshop.source import plugin_sources, read_source

Names = Annotated[
    str, Parameter(help="Only these plugins; else all in the workshop.", completer=plugin_names)
]


def dev(*names: Names, session: SessionArgument) -> int:
    """Run the workshop's plugins, and swap each on save.

    Each is built (development) and run; what is saved is built and takes the place of what runs, without
    losing a message. What cannot be built or does not come up is said with its place, and changes nothing.
    What is activated is neither run nor changed. Ctrl-C ends it. For example: echo-core dev loud_words
    """
    workspace = session.workspace()
    settings = load_settings(workspace)
    for name in names:
        read_source(workspace, name)

    def said(name: str, done: str, error: EchoCoreError | None) -> None:
        if error is None:
            session.out.note(f"{name} {done}")
        else:
            session.out.note(error_text(error))
            session.out.note(f"{name}: still watching; what runs is as before")

    def begin(host: Host, store: Store) -> Sequence[Service]:
        reloader = Reloader(workspace, store, said, only=names)
        reloader.begin(host)
        if not plugin_sources(workspace):
            session.out.note("the workshop is empty; what is made there is run\nnext: echo-core create NAME")
        reconciler = Reconciler(host, workspace, store, includes=lambda name: False)
        return (functools.partial(reloader.watch, host), control_of(host, reconciler, workspace, settings))

    return run_host(session, settings, begin, plain=True)
