"""The frames that tell neighbours of an address."""

from hostagent.netlink.announce import frame


def test_arp_is_a_request_for_ones_own_address() -> None:
    wanted = "ffffffffffff 020000000005 0806 0001 0800 06 04 0001 020000000005 0a010005 000000000000 0a010005"
    assert frame("02:00:00:00:00:05", "10.1.0.5") == bytes.fromhex(wanted)


def test_an_advertisement_overrides_and_its_checksum_is_right() -> None:
    made = frame("02:00:00:00:00:05", "fd00:1::5")
    assert made[:14] == bytes.fromhex("333300000001 020000000005 86dd")
    packet = made[14:]
    assert packet[4:8] == bytes.fromhex("0020 3a ff")
    assert packet[24:40] == bytes.fromhex("ff02" + "00" * 13 + "01")
    icmp = packet[40:]
    assert (icmp[0], icmp[4], icmp[8:24], icmp[24:]) == (136, 0x20, packet[8:24], bytes.fromhex("0201020000000005"))
    summed = packet[8:40] + len(icmp).to_bytes(4, "big") + b"\0\0\0\x3a" + icmp
    total = sum(int.from_bytes(summed[i : i + 2], "big") for i in range(0, len(summed), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
