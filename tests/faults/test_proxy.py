"""The proxy does to a connection what it is told to, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.faults.proxy import Break, Proxy, Streams

Connect = Callable[[], Awaitable[Streams]]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that answers each line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()) as proxy:
        yield proxy


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    """Makes connections through the proxy."""
    made: list[Streams] = []

    async def connect() -> Streams:
        made.append(await asyncio.open_connection("127.0.0.1", proxy.port))
        return made[-1]

    yield connect
    for _, writer in made:
        writer.close()


async def ask(streams: Streams, line: bytes = b"hello\n") -> bytes:
    """What comes back for a line, up to the end of the connection or the line."""
    streams[1].write(line)
    async with asyncio.timeout(30):
        return await streams[0].readline()


async def hangs(streams: Streams, line: bytes = b"hello\n") -> bool:
    try:
        async with asyncio.timeout(0.2):
            await ask(streams, line)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_until_told_otherwise(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    for _ in range(3):
        assert await ask(streams) == b"hello\n"
    large = b"x" * 50_000 + b"\n"
    assert await ask(streams, large) == large
    streams[1].write_eof()
    assert await streams[0].read() == b""
    streams[1].close()


@pytest.mark.parametrize("after", [0, 3])
async def test_an_answer_is_reset_or_truncated_after_so_many_bytes(proxy: Proxy, connect: Connect, after: int) -> None:
    proxy.answers += [Break("close", after), Break("reset", after)]
    assert await ask(await connect()) == b"hello\n"[:after]
    with pytest.raises(ConnectionResetError):
        await ask(await connect())
    assert await ask(await connect()) == b"hello\n"


async def test_a_request_is_cut(proxy: Proxy, connect: Connect) -> None:
    proxy.requests.append(Break("close", 2))
    assert await ask(await connect()) == b""


async def test_a_chunk_is_delayed(proxy: Proxy, connect: Connect) -> None:
    proxy.answers.append(Break("delay", seconds=0.5))
    streams = await connect()
    assert await hangs(streams)
    assert await streams[0].readline() == b"hello\n"


async def test_a_silent_connection_stays_open_and_others_go_on(proxy: Proxy, connect: Connect) -> None:
    silent, silenced = await connect(), await connect()
    assert await ask(silent) == b"hello\n"
    proxy.silence_all()
    assert await hangs(silent)
    proxy.answers.append(Break("silence"))
    silenced = await connect()
    assert await hangs(silenced)
    assert await ask(await connect()) == b"hello\n"
    assert await hangs(silenced)


async def test_while_frozen_nothing_passes_and_nothing_is_lost(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    proxy.freeze()
    assert await hangs(streams)
    assert await hangs(await connect())
    proxy.thaw()
    assert await streams[0].readline() == b"hello\n"


async def test_connections_are_reset_and_refused(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    assert await ask(streams) == b"hello\n"
    proxy.refusing = True
    proxy.reset_all()
    with pytest.raises(ConnectionResetError):
        await ask(streams)
    with pytest.raises(ConnectionResetError):
        await ask(await connect())
    proxy.refusing = False
    assert await ask(await connect()) == b"hello\n"
    assert len(proxy) == 1


async def test_the_next_target_is_taken_where_one_is_away(proxy: Proxy, connect: Connect) -> None:
    async with Proxy() as gone:
        address = ("127.0.0.1", gone.port)
    proxy.targets.append(address)
    for _ in range(4):
        assert await ask(await connect()) == b"hello\n"
    proxy.targets.clear()
    with pytest.raises(ConnectionResetError):
        await ask(await connect())
