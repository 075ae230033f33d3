"""A TLS handshake as the API server makes it, with the answering side in this process."""

import asyncio
import ssl


async def handshake(server: ssl.SSLContext, *, trusting: bytes, host: str) -> None:
    """Connect to *server* as a client that trusts the PEM bundle *trusting* and expects *host*."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=server)
    client = ssl.create_default_context(cadata=trusting.decode())
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        writer.close()
