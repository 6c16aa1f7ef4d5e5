"""Arguments that several verbs have."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.completion import CompletionContext

from echo_core.workspace import BUILD_TYPES, BuildType, find_workspace


def plugin_names(context: CompletionContext) -> list[str]:
    """What a shell offers where a plugin's name is asked for: all there are here, built or not."""
    workspace = find_workspace()
    folders = (workspace.workshop, *map(workspace.libraries, BUILD_TYPES), workspace.enabled)
    entries = (entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir())
    return sorted({name for name in entries if not name.startswith(".")})


NewName = Annotated[str, Parameter(help="The plugin's name: lower-case words joined by underscores.")]
PluginName = Annotated[str, Parameter(help="The plugin's name.", completer=plugin_names)]
BuildTypeArgument = Annotated[BuildType, Parameter(help="The kind of library.", show_default=True)]
