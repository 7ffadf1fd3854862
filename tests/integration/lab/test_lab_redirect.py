"""The conversation with a real program, played here with what xfreerdp 2.11 was captured to send."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rdpbalancer.lab import redirect
from rdpbalancer.lab.channel import LabChannel, LabError, TlsChannel
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.desktops import Broker
from rdpbalancer.lab.mcs import license_valid_client, server_redirection
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.token import encode_msts
from tests.support.programs import require
from tests.support.wait import wait_until_async
from tests.unit.lab.xfreerdp import CLIENT_INFO, CONNECT_INITIAL

ERECT_DOMAIN = bytes.fromhex("0300000c02f0800401000100")
ATTACH_USER = bytes.fromhex("0300000802f08028")
CHANNEL_JOIN = bytes.fromhex("0300000c02f08038000603eb")
USER = "jürgen"  # who logs in by the captured Client Info
ELSEWHERE = Endpoint("127.0.0.9", 3389)


@pytest.fixture
async def server() -> AsyncIterator[LabServer]:
    """A server of a farm whose broker knows that the user's desktop is elsewhere."""
    broker = Broker()
    broker.assign(USER, ELSEWHERE)
    async with LabServer(behaviour="broker", broker=broker) as made:
        yield made


async def _set_up(channel: LabChannel) -> bytes:
    """Say what a client says up to its Client Info; return the server's answer to that."""
    async with asyncio.timeout(5):
        await channel.write(CONNECT_INITIAL)
        response = await channel.read_exactly(4)
        assert b"\x7f\x66" == (await channel.read_exactly(int.from_bytes(response[2:]) - 4))[3:5]
        await channel.write(ERECT_DOMAIN + ATTACH_USER)
        assert bytes.fromhex("0300000b02f0802e000006") == await channel.read_exactly(11)
        await channel.write(CHANNEL_JOIN)
        assert bytes.fromhex("0300000f02f0803e00000603eb03eb") == await channel.read_exactly(15)
        await channel.write(CLIENT_INFO)
        return await channel.read_exactly(len(license_valid_client()))


async def test_a_program_is_redirected(server: LabServer) -> None:
    """After its license it gets a redirection with the token of its home, and then nothing."""
    async with LabClient(server.endpoint, LabOpening(cookie=USER, requested_protocols=None)) as client:
        assert license_valid_client() == await _set_up(client.channel)
        expected = server_redirection(encode_msts(ELSEWHERE) + b"\r\n")
        assert expected == await client.channel.read_exactly(len(expected))
        assert [USER] == [session.user for session in server.sessions]
        await client.leave()
    await wait_until_async(lambda: not server.connections, 5, "the end of the session")
    assert (1, 0) == (server.counters.redirects, server.counters.logins)


async def test_a_program_that_stays_is_hung_up_on(server: LabServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not leave after its redirection is closed."""
    monkeypatch.setattr(redirect, "LEAVING_S", 0.1)
    async with LabClient(server.endpoint) as client:
        await _set_up(client.channel)
        assert server_redirection(encode_msts(ELSEWHERE) + b"\r\n") == await client.read_to_end()


async def test_a_program_with_a_token_is_logged_in(server: LabServer) -> None:
    """Who was sent here is at home here, and held on the desktop until it leaves."""
    async with LabClient(server.endpoint, LabOpening(token=encode_msts(server.endpoint))) as client:
        assert license_valid_client() == await _set_up(client.channel)
        await wait_until_async(lambda: USER in server.desktops, 5, "the login")
        assert 1 == server.desktops[USER].connections
        await client.leave()
    await wait_until_async(lambda: not server.connections, 5, "the end of the session")
    assert (0, 0) == (server.counters.redirects, server.desktops[USER].connections)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x00",
        b"\x16\x03\x01\x00\x05",  # TLS without a certificate
        b"\x03\x00\x00\x03",  # shorter than its own header
        CONNECT_INITIAL + bytes.fromhex("0300000802e08028"),  # no data packet
        CONNECT_INITIAL + bytes.fromhex("0300000802f080ff"),  # an MCS PDU that does not belong
        CONNECT_INITIAL + b"GET ",
        CONNECT_INITIAL + ERECT_DOMAIN * (redirect.MAX_SETUP_PACKETS + 1),
    ],
)
async def test_what_is_no_rdp_program_is_closed(server: LabServer, wrong: bytes) -> None:
    """At once, and the server is fine afterwards."""
    async with LabClient(server.endpoint) as client:
        await client.channel.write(wrong)
        await client.read_to_end()
    await wait_until_async(lambda: not server.connections, 5, "the end of the session")
    assert 0 == server.counters.logins + server.counters.redirects


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    path, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=ts.example.test", "-out", str(path), "-keyout", str(key)]
    subprocess.run(
        [require("openssl"), "req", "-x509", *curve, *names], check=True, capture_output=True, timeout=30
    )
    return path, key


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_a_program_is_redirected_within_tls(server: LabServer, certificate: tuple[Path, Path]) -> None:
    """With a certificate the server follows a client that begins TLS after the confirm."""
    server.security = "tls"
    server.certificate, server.key = certificate
    async with LabClient(server.endpoint, LabOpening(cookie=USER)) as client:
        secured = TlsChannel(client.channel, _any_certificate(), server_side=False)
        async with asyncio.timeout(5):
            await secured.handshake()
            assert license_valid_client() == await _set_up(secured)
            expected = server_redirection(encode_msts(ELSEWHERE) + b"\r\n")
            assert expected == await secured.read_exactly(len(expected))


async def test_broken_tls_is_closed(server: LabServer, certificate: tuple[Path, Path]) -> None:
    """A handshake that is none, one that is cut short, and a record that is damaged."""
    server.certificate, server.key = certificate
    for hello in (b"\x16\x03\x01\x00\x05hello", b"\x16\x03"):
        async with LabClient(server.endpoint) as client:
            await client.channel.write(hello)
            client.half_close()
            await client.read_to_end()
    async with LabClient(server.endpoint) as client:
        secured = TlsChannel(client.channel, _any_certificate(), server_side=False)
        await secured.handshake()
        await client.channel.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(LabError) as caught:
            await secured.read_exactly(1_000_000)
        assert caught.value.code in {"tls", "closed"}
    await wait_until_async(lambda: not server.connections, 5, "the end of the session")
