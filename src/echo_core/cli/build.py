"""`echo-core build`: from the workshop to a library."""

from typing import TYPE_CHECKING

from echo_core.cli.arguments import BuildTypeArgument, PluginName
from echo_core.cli.output import place
from echo_core.cli.session import SessionArgument

if TYPE_CHECKING:
    from echo_core.workshop.build import BuildReport


def build(
    name: PluginName, build_type: BuildTypeArgument = "development", /, *, session: SessionArgument
) -> None:
    """Build a plugin into a library.

    A production build runs the plugin's own tests first. When something is wrong, the libraries stay as
    they were. For example: echo-core build loud_words production
    """
    from echo_core.workshop.build import build as build_library  # help and completion do without it

    report = build_library(session.workspace(), name, build_type)
    session.out.result("build", report, report_text(report))


def report_text(report: "BuildReport") -> str:
    """The report, for people."""
    done = "is unchanged" if report.unchanged else f"is built in {sum(report.timings.values()):.1f} s"
    lines = [
        f"{report.name} {report.version} ({report.build_type}) {done}",
        f"  library  {place(report.path)}",
        f"  content  {report.size / 1024:,.0f} KiB, sha256 {report.digest[:12]}",
        *([f"  tests    {report.tests}"] if report.tests else []),
        f"next: echo-core activate {report.name} {report.build_type}",
    ]
    return "\n".join(lines)
