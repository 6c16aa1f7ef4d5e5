"""`echo-core activate`: switching a built plugin on."""

from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import BuildTypeArgument, PluginName
from echo_core.cli.output import to_builtins
from echo_core.cli.session import SessionArgument

Version = Annotated[str | None, Parameter(help="The version; else the newest that is built.")]


def activate(
    name: PluginName,
    build_type: BuildTypeArgument = "development",
    /,
    *,
    version: Version = None,
    session: SessionArgument,
) -> None:
    """Switch a built plugin on.

    The library is checked first; when it is not in order, what was switched on before stays so. A running
    host brings the plugin up, in place of the version that runs; if it does not come up, all is as before.
    For example: echo-core activate loud_words production
    """
    # Here, because help and completion do without.
    from echo_core.control.client import running_host
    from echo_core.control.documents import Changed
    from echo_core.workshop.activate import Activation, activate_found, find

    workspace = session.workspace()
    library = find(workspace, name, build_type, version)
    host = running_host(workspace)
    if host is None:
        done, end = activate_found(workspace, library), "\nnext: echo-core run"
    else:
        wish = {"build_type": build_type, "version": library.version}
        changed = host.post(f"/v1/plugins/{name}/activate", Changed, wish)
        done = Activation(name, library.version, build_type, workspace.enabled / name, changed.already)
        end = ", and runs"
    what = f"{done.name} {done.version} ({done.build_type})"
    text = f"{what} {'was activated already' if done.already else 'is activated'}{end}"
    session.out.result("activate", to_builtins(done) | {"runs": host is not None}, text)
