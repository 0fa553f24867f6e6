"""Refuse private addresses: a table from outside names URLs, and must not reach this machine's own network."""

import ipaddress
import socket

from yarl import URL

PRIVATE = "private address"
INVALID = "invalid url"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Networks that Python calls global although they lead inside: a cloud's metadata, relays, translations to IPv4.
_INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::/8",
        "64:ff9b::/96",
        "2002::/16",
        "3fff::/20",
    )
)
_AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


class AddressRefused(OSError):  # noqa: N818 -- it is a verdict, raised where a connection would be opened
    """An address is not public. All have the same message, so that aiohttp keeps the type if several of a host fail."""

    def __init__(self) -> None:
        super().__init__(PRIVATE)


def is_public(address: str) -> bool:
    """Return whether an IP address is public: not this machine, its network, or a way back to them."""
    found: _Address = ipaddress.ip_address(address.partition("%")[0])
    inside = found.is_multicast or found.is_reserved or getattr(found, "is_site_local", False)
    return found.is_global and not inside and not any(found in network for network in _INSIDE)


def public_socket(info: _AddressInfo) -> socket.socket:
    """Make the socket for a connection, after checking the address that its name has been resolved to.

    Raises:
        AddressRefused: it is not public.
    """
    family, kind, protocol, _, place = info
    if not is_public(str(place[0])):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


def url_problem(url: URL, *, allow_private: bool) -> str:
    """Return why a URL must not be requested, before anything is sent; "" if it may be.

    Args:
        url: URL from the table, or from a redirect.
        allow_private: Whether private addresses are allowed. Names are checked when they are connected to.
    """
    if url.scheme not in ("http", "https"):
        return "scheme other than http and https" if url.scheme else INVALID
    if not url.host:
        return INVALID
    if url.user is not None or url.password is not None:
        return "url with credentials"
    try:
        public = is_public(url.host)
    except ValueError:  # a name
        return ""
    return "" if public or allow_private else PRIVATE


def parse_url(text: str) -> URL | None:
    """Parse a URL; return None if it is invalid."""
    try:
        return URL(text)
    except ValueError:
        return None
