"""A host with so many in-process plugins: prints a line when all of them are running, and stops."""

import argparse
import asyncio

from benchmarks.hosting import host_with, manifest, telemetry_for
from benchmarks.programs.scaling import Forward
from echo_core.runtime.slot import PluginEvent
from echo_core.runtime.states import PluginState


async def start(count: int) -> None:
    """Run the host until all are RUNNING."""
    telemetry = telemetry_for("")
    plugins = [
        (Forward(), manifest(f"step{number}", hears=[f"step.{number}"], says=[f"step.{number + 1}"]))
        for number in range(count)
    ]
    running = 0
    with host_with(plugins, telemetry) as host:

        def watch(event: PluginEvent) -> None:
            nonlocal running
            if event.state is not PluginState.RUNNING:
                return
            running += 1
            if running == count:
                print("running", flush=True)
                host.request_stop()

        host.events(watch)
        await host.run()
    telemetry.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--plugins", type=int, default=50)
    asyncio.run(start(parser.parse_args().plugins))
