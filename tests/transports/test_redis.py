"""What is Redis's own: its keys, its credentials, its memory."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.urls import transport_for
from support.brokers import Brokers, once, open_broker
from support.servers import certificates, redis_server

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see conftest.py


@async_test
async def test_keys_are_named_as_documented_and_nothing_settled_stays(brokers: Brokers) -> None:
    url = brokers.url("redis", prefix="some.system")
    await once(url)
    async with Redis(port=brokers.server("redis").port) as client:
        # Beside them is for a while what hosts say of themselves.
        keys = sorted(
            [
                key.decode()
                async for key in client.scan_iter("{some.system}*")
                if b":want" not in key and b":host" not in key
            ]
        )
        assert keys == ["{some.system}:queue:reader", "{some.system}:subscriptions", "{some.system}:version"]
        assert await client.xlen("{some.system}:queue:reader") == 0


@async_test
async def test_what_somebody_else_writes_arrives_as_bytes(brokers: Brokers) -> None:
    url = brokers.url("redis", prefix="foreign")
    async with transport_for(url) as transport, Redis(port=brokers.server("redis").port) as client:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", BaseMessage(source="test", data="ours"))
        await client.xadd("{foreign}:queue:reader", {"t": "a", "m": b"{not ours}"})
        ours, theirs = (await reader.receive(1))[0], (await asyncio.wait_for(reader.receive(1), 60))[0]
        assert ours.message.data == "ours"
        assert (theirs.message.source, theirs.message.data) == ("redis", b"{not ours}")
        await ours.settle()
        await theirs.settle()
        await transport.wait_until_settled()


@async_test
async def test_a_server_without_memory_slows_the_publisher_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server("--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as server:
        url = f"redis://127.0.0.1:{server.port}/"
        async with open_broker(url) as transport, Redis(port=server.port) as client:
            reader = transport.subscribe("reader", ["a"])
            await transport.publish("a", BaseMessage(source="test", data=1))
            await client.config_set("maxmemory", "1mb")
            publishing = asyncio.ensure_future(transport.publish("a", BaseMessage(source="test", data=2)))
            async with asyncio.timeout(60):
                while "maxmemory" not in transport.trouble():
                    await asyncio.sleep(0.01)
            assert not publishing.done()
            with pytest.raises(TransportError, match="memory"):  # what a host's presence expects
                await transport.announce("host", b"{}")
            late = transport.subscribe("late", ["b"])
            async with asyncio.timeout(60):
                while "cannot be made yet" not in caplog.text:
                    await asyncio.sleep(0.01)
            await client.config_set("maxmemory", "100mb")
            await asyncio.wait_for(publishing, 60)
            await asyncio.wait_for(late.until_ready(), 60)
            assert transport.trouble() == ""
            came = [*await reader.receive(2)]
            while len(came) < 2:
                came += await reader.receive(2)
            assert [delivery.message.data for delivery in came] == [1, 2]


@async_test
async def test_only_the_right_password_lets_in() -> None:
    with redis_server("--requirepass", "hidden") as server:
        await once(f"redis://:hidden@127.0.0.1:{server.port}/")
        for userinfo in ("", "default:wrong-word@"):
            with pytest.raises(TransportError, match=r"(?i)auth|password") as caught:
                await open_broker(f"redis://{userinfo}127.0.0.1:{server.port}/").open()
            assert "wrong-word" not in str(caught.value)


@async_test
async def test_with_tls_the_server_is_verified(tmp_path: Path) -> None:
    certificates(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    files = ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert)]
    with redis_server("--port", "0", *files, "--tls-auth-clients", "no", tls=True) as server:
        await once(f"redis+tls://127.0.0.1:{server.port}/?ca={cert}")
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            await open_broker(f"redis+tls://127.0.0.1:{server.port}/").open()


@async_test
async def test_with_tls_only_the_authority_that_is_named_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        certificates(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours / "cert.pem"))  # what the system trusts
    files = ["--tls-cert-file", str(ours / "cert.pem"), "--tls-key-file", str(ours / "key.pem")]
    with redis_server("--port", "0", *files, "--tls-auth-clients", "no", tls=True) as server:
        await once(f"redis+tls://127.0.0.1:{server.port}/")
        for wrong in (f"127.0.0.1:{server.port}/?ca={other / 'cert.pem'}", f"localhost:{server.port}/"):
            with pytest.raises(TransportError, match=r"(?i)certificate(?s:.*)the option ca"):
                await open_broker(f"redis+tls://{wrong}").open()


@async_test
async def test_a_primary_that_becomes_a_replica_is_waited_for_and_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server() as server:
        url = f"redis://127.0.0.1:{server.port}/"
        client: Any = Redis(port=server.port)
        async with open_broker(url) as transport, client as operator:
            reader = transport.subscribe("reader", ["a"])
            await transport.wait_until_collecting()
            attempts, connect = 0, transport._connect

            async def counted() -> None:
                nonlocal attempts
                attempts += 1
                await connect()

            monkeypatch.setattr(transport, "_connect", counted)
            await operator.replicaof("127.0.0.1", "1")  # where nobody is
            publishing = asyncio.create_task(transport.publish("a", BaseMessage(source="test", data=1)))
            async with asyncio.timeout(60):
                while attempts < 4:
                    await asyncio.sleep(0.01)
                assert "read only" in transport.trouble()
                assert "works again" not in caplog.text
                with pytest.raises(TransportError, match=r"read only(?s:.*)the primary"):
                    await open_broker(url).open()
                await operator.replicaof("NO", "ONE")
                await publishing
                (delivery,) = await reader.receive()
                await delivery.settle()
            assert delivery.message.data == 1


@pytest.mark.parametrize("url", ["redis://a,b/", "redis://a/captions", "redis://a/?stream=x"])
def test_what_redis_does_not_have_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        transport_for(url)


@async_test
async def test_databases_are_apart(brokers: Brokers) -> None:
    url = brokers.url("redis", prefix="apart")
    await once(url.replace("/?", "/3?"))
    async with Redis(port=brokers.server("redis").port, db=3) as client:
        assert await client.exists("{apart}:subscriptions")
    async with Redis(port=brokers.server("redis").port) as client:
        assert not await client.exists("{apart}:subscriptions")
