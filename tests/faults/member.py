"""A host's worth of work in a process of its own: `python member.py URL NAME`; a line for each message.

Lines are JSON: {"got": 7}, and {"trouble": "..."} whenever that changes.
"""

import asyncio
import json
import sys

from echo_core.transports.urls import transport_for


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


async def main(url: str, name: str) -> None:
    async with transport_for(url) as transport:
        subscription = transport.subscribe(name, ["load.in"])

        async def work() -> None:
            while True:
                for delivery in await subscription.receive(8):
                    await asyncio.sleep(0.01)
                    await transport.publish(
                        "load.out", delivery.message.derive(delivery.message.data, source=name)
                    )
                    await delivery.settle()
                    say(got=delivery.message.data)

        working = asyncio.create_task(work())
        said = ""
        while not working.done():
            if transport.trouble() != said:
                said = transport.trouble()
                say(trouble=said)
            await asyncio.sleep(0.05)
        await working


asyncio.run(main(*sys.argv[1:]))
