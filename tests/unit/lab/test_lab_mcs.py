"""The packets that lead a real client to its redirection."""

import pytest

from rdpbalancer.lab import mcs
from rdpbalancer.lab.channel import LabError
from tests.unit.lab.xfreerdp import CLIENT_INFO, CONNECT_INITIAL


def test_channels_are_counted() -> None:
    """A stock xfreerdp asks for rdpdr, rdpsnd, cliprdr and drdynvc."""
    assert 4 == mcs.channel_count(CONNECT_INITIAL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x03\xc0",
        b"\x03\xc0\x08\x00",
        b"\x03\xc0" + bytes.fromhex("0800ffffffff"),
        CONNECT_INITIAL[:-60],
    ],
)
def test_a_request_without_channels_has_none(data: bytes) -> None:
    """A missing, cut or contradictory CS_NET block counts as none."""
    assert 0 == mcs.channel_count(data)


def test_a_block_that_contradicts_itself_is_passed_over() -> None:
    """The type's two bytes may also occur by chance: the block whose length fits its count is believed."""
    assert 4 == mcs.channel_count(b"\x03\xc0\x09\x00\x01\x00\x00\x00" + CONNECT_INITIAL)


@pytest.mark.parametrize("channels", [0, 1, 21, 31])
def test_a_connect_response_is_as_long_as_it_says(channels: int) -> None:
    """TPKT, BER and GCC lengths agree with what follows, with odd and even channel counts."""
    packet = mcs.connect_response(requested_protocols=3, channels=channels)
    assert len(packet) == int.from_bytes(packet[2:4])
    assert b"\x7f\x66" == packet[7:9]
    extra = {0x81: 1, 0x82: 2}.get(packet[9], 0)  # BER: bytes of a length that one cannot say
    length = int.from_bytes(packet[10 : 10 + extra]) if extra else packet[9]
    assert len(packet) - 10 - extra == length
    network = packet[packet.index(b"\x03\x0c") :]
    assert (len(network), channels) == (
        int.from_bytes(network[2:4], "little"),
        int.from_bytes(network[6:8], "little"),
    )
    ids = [int.from_bytes(network[at : at + 2], "little") for at in range(8, 8 + 2 * channels, 2)]
    assert list(range(1004, 1004 + channels)) == ids


def test_users_and_channels_are_let_in() -> None:
    """The confirms repeat what xfreerdp asked for."""
    assert bytes.fromhex("0300000b02f0802e000006") == mcs.attach_user_confirm()
    join = bytes.fromhex("0300000c02f08038000603eb")
    assert bytes.fromhex("0300000f02f0803e00000603eb03eb") == mcs.channel_join_confirm(join)
    with pytest.raises(LabError, match="too short"):
        mcs.channel_join_confirm(join[:-1])


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        ("0300000c02f0800401000100", mcs.ERECT_DOMAIN),
        ("0300000802f08028", mcs.ATTACH_USER),
        ("0300000c02f08038000603ef", mcs.CHANNEL_JOIN),
        (CLIENT_INFO.hex(), mcs.SEND_DATA),
    ],
)
def test_packets_are_told_apart(packet: str, kind: int) -> None:
    """Each packet of xfreerdp's set-up is known by its choice number."""
    assert kind == mcs.domain_pdu(bytes.fromhex(packet))


@pytest.mark.parametrize("packet", ["", "03000007", "0300000702f080", "0300000802e08028"])
def test_other_packets_are_refused(packet: str) -> None:
    """Too short, or no X.224 data."""
    with pytest.raises(LabError, match="MCS packet"):
        mcs.domain_pdu(bytes.fromhex(packet))


def test_the_license_is_the_one_clients_want() -> None:
    """STATUS_VALID_CLIENT, ST_NO_TRANSITION, an empty blob, behind a SEC_LICENSE_PKT header."""
    expected = "03000022 02f080 68000103eb70 14 80000000 ff031000 07000000 02000000 04000000"
    assert bytes.fromhex(expected) == mcs.license_valid_client()


def test_the_redirection_is_the_one_that_worked() -> None:
    """The share PDU that a stock xfreerdp 2.11 is known to follow, byte for byte."""
    share = bytes.fromhex(
        "44001a00ea03000000043c00000000000200000024000000"
        "436f6f6b69653a206d7374733d333634303230353232382e31353632392e303030300d0a0000000000000000"
    )
    packet = mcs.server_redirection(b"Cookie: msts=3640205228.15629.0000\r\n")
    assert packet.endswith(b"\x70" + bytes([len(share)]) + share)
    assert len(packet) == int.from_bytes(packet[2:4])


def test_a_long_token_has_two_length_bytes() -> None:
    """From 128 bytes on, PER lengths have two bytes."""
    token = b"Cookie: msts=" + b"9" * 200
    packet = mcs.server_redirection(token)
    share_bytes = len(packet) - 15
    assert (share_bytes | 0x8000).to_bytes(2) == packet[13:15]
    assert token in packet


def test_the_user_of_a_login_is_read() -> None:
    """The name without its domain, beyond ASCII."""
    assert "jürgen" == mcs.client_info_user(CLIENT_INFO)


def test_cut_logins_name_what_is_left() -> None:
    """No cut makes it fail, and other data names nobody."""
    for size in range(len(CLIENT_INFO)):
        user = mcs.client_info_user(CLIENT_INFO[:size])
        assert user is None or "jürgen".startswith(user.rstrip("\ufffd"))
    assert None is mcs.client_info_user(mcs.license_valid_client())


def test_a_name_that_is_not_unicode_is_read() -> None:
    """Without INFO_UNICODE, one byte per character."""
    info = bytes.fromhex("40000000 00000000 00000000 0100 0300 0000 0000 0000".replace(" ", "")) + b"D\0bob\0"
    packet = mcs.data_packet(bytes.fromhex("64000603eb70") + bytes([len(info)]) + info)
    assert "bob" == mcs.client_info_user(packet)
