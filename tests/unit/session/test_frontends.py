"""What differs between the protocols of a virtual service."""

from typing import Any, cast

import pytest

from rdpbalancer.model import Mode
from rdpbalancer.net.handshake import ClientOpening
from rdpbalancer.session.frontends import FRONTENDS, RdpFrontend, TcpFrontend
from rdpbalancer.wire.confirm import DISCONNECT, Confirm, parse_confirm
from rdpbalancer.wire.request import parse_request

_REQUEST = bytes.fromhex("030000130ee000000000000100080003000000")
_CONFIRM = bytes.fromhex("030000130ed00000123400020f080002000000")


class FakeReader:
    """A client that has sent a Connection Request."""

    async def opening(self) -> ClientOpening:
        """Return it."""
        request = parse_request(_REQUEST)
        assert request is not None
        return ClientOpening(_REQUEST, request)

    def rest(self) -> bytes:
        """Return what came behind a PROXY header."""
        return b"rest"


class FakeUpstream:
    """A server that confirms."""

    async def receive_reply(self, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
        """Return the Connection Confirm."""
        assert deadline_at == 9.0
        return _CONFIRM, parse_confirm(_CONFIRM)


def test_every_mode_has_its_front_end() -> None:
    assert set(Mode) == set(FRONTENDS)


async def test_rdp_reads_a_request_and_waits_for_the_confirm() -> None:
    frontend = RdpFrontend()
    data, request = await frontend.open(cast("Any", FakeReader()))
    assert (_REQUEST, parse_request(_REQUEST)) == (data, request)
    reply, confirm = await frontend.await_reply(cast("Any", FakeUpstream()), deadline_at=9.0)
    assert (_CONFIRM, True) == (reply, frontend.binds(confirm))


async def test_tcp_reads_nothing_and_waits_for_nothing() -> None:
    frontend = TcpFrontend()
    assert (b"rest", None) == await frontend.open(cast("Any", FakeReader()))
    assert (b"", None) == await frontend.await_reply(cast("Any", FakeUpstream()), deadline_at=9.0)


@pytest.mark.parametrize(("mode", "binds"), [(Mode.RDP, False), (Mode.TCP, True)])
def test_who_is_bound_without_a_confirm(mode: Mode, *, binds: bool) -> None:
    assert binds is FRONTENDS[mode].binds(None)


def test_who_is_told_that_nobody_serves_them() -> None:
    assert (DISCONNECT, b"") == (FRONTENDS[Mode.RDP].refusal, FRONTENDS[Mode.TCP].refusal)


def test_whose_half_close_is_the_end() -> None:
    assert FRONTENDS[Mode.RDP].half_close_is_the_end
    assert not FRONTENDS[Mode.TCP].half_close_is_the_end
