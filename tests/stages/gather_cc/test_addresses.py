"""Which addresses lie in the open net."""

import pytest

yarl = pytest.importorskip("yarl")

from stages.gather_cc.addresses import AddressRefused, is_public, public_socket, url_problem  # noqa: E402 - needs yarl


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public__are_the_open_nets_own(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1",
        "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "192.88.99.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1",
        "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "5f00::1", "100::1",
    ],
)  # fmt: skip
def test_public__is_none_that_leads_inside(address: str) -> None:
    assert not is_public(address)


def test_socket__is_made_for_public_addresses_alone() -> None:
    public_socket((2, 1, 6, "", ("8.8.8.8", 80))).close()
    with pytest.raises(AddressRefused):
        public_socket((2, 1, 6, "", ("127.0.0.1", 80)))
    with pytest.raises(AddressRefused):
        public_socket((10, 1, 6, "", ("::1", 80, 0, 0)))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.com/a.jpg", ""),
        ("https://8.8.8.8:8080/a", ""),
        ("HTTP://EXAMPLE.com", ""),
        ("http://localhost/", ""),  # a name: its address is looked at when it is connected to
        ("http://127.0.0.1/", "private address"),
        ("http://[::1]/", "private address"),
        ("http://[fe80::1%25eth0]/", "private address"),
        ("gopher://example.com/", "scheme other than http and https"),
        ("data:image/png;base64,AAAA", "scheme other than http and https"),
        ("//example.com/a.jpg", "invalid url"),
        ("http://:password@example.com/", "url with credentials"),
    ],
)
def test_url__is_judged_before_anything_is_sent(url: str, problem: str) -> None:
    assert url_problem(yarl.URL(url), allow_private=False) == problem
