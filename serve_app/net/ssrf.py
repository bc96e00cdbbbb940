"""The SSRF guard: which addresses user-supplied audio URLs and webhooks may reach.

The address is checked when a connection is opened, not when the name is looked up: only then is it final, after DNS,
redirects, and every way to spell an address (`http://2130706433/`).
"""

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import aiohttp
from yarl import URL

from serve_app.errors import InvalidRequest
from serve_app.settings import NetworkSettings

MAX_URL_CHARS = 8192
"""Signed URLs can have a few thousand characters; HTTP servers commonly accept 8 KiB of request line."""

# RFC 4291 2.4 and the IANA registry: the only IPv6 space handed out for the public internet.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_INSIDE = (
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments; Oracle's metadata service is here
    IPv4Network("168.63.129.16/32"),  # Azure's platform address: public by its number only
)


class AddressRefusedError(OSError):
    """A connection was attempted to an address that is not on the public internet."""

    def __init__(self) -> None:
        # The same text for every address: aiohappyeyeballs preserves the type only if all texts are equal,
        # and showing what a name resolves to internally would help an attacker.
        super().__init__(errno.EACCES, "the host's address is not on the public internet")


def was_refused(error: BaseException) -> bool:
    """Return whether a request of a `guarded_session` failed with `AddressRefusedError`."""
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefusedError)


def is_public(address: str) -> bool:
    """Return whether an IP address (as text, with or without an IPv6 scope) is on the public internet.

    For IPv4 inside IPv6 (mapped, 6to4, NAT64) the IPv4 address decides.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = _embedded(ip)
        if inner is not None:
            return is_public(str(inner))
        return ip in _GLOBAL_UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _INSIDE)


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


def guarded_session(network: NetworkSettings, **session: Any) -> aiohttp.ClientSession:
    """Return a session that connects to public addresses only, unless `network.allow_private_addresses`.

    It stores no cookies (users share it) and reads no proxy or credentials from the environment. `session` is passed to
    `aiohttp.ClientSession`. A refused request fails with a `ClientConnectorError` for which `was_refused` is true.
    """
    factory = None if network.allow_private_addresses else _public_socket
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=factory),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        **session,
    )


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise AddressRefusedError
    return socket.socket(family, kind, protocol)


def check_url(url: str, param: str) -> None:
    """Reject a string that can't be a URL to fetch or call, without network access.

    Raises `InvalidRequest` that names `param`. The address is checked when connecting.
    """
    problem = _problem(url)
    if problem:
        raise InvalidRequest(
            f"'{param}' {problem}; it must be an http:// or https:// URL, like https://example.com/audio.mp3",
            param,
            "invalid_url",
        )


def _problem(url: str) -> str | None:
    if len(url) > MAX_URL_CHARS:
        return f"is longer than {MAX_URL_CHARS} characters"
    if not url.isprintable() or url != url.strip():
        return "has control characters, or spaces around it"
    try:
        parsed = URL(url)
    except ValueError as error:
        return f"is not a URL ({error})"
    if parsed.scheme not in ("http", "https"):
        return f"has the scheme '{parsed.scheme}'" if parsed.scheme else "has no scheme"
    host = parsed.raw_host
    if not host:
        return "has no host"
    if not _is_host(host):
        return f"has an impossible host name '{host}'"
    if parsed.port == 0:
        return "has port 0"
    if not _is_basic(parsed.user or "", parsed.password or ""):
        return "has credentials that HTTP basic authentication can't carry"
    return None


def _is_basic(user: str, password: str) -> bool:
    """Return whether HTTP basic authentication can carry these (RFC 7617: no colon in the user name; Latin-1)."""
    try:
        (user + password).encode("latin-1")
    except UnicodeEncodeError:
        return False
    return ":" not in user


def _is_host(host: str) -> bool:
    if ":" in host:
        return True  # yarl has checked the IPv6 address
    if host.replace(".", "").isdigit():
        return _is_ipv4(host)
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(0 < len(label) <= 63 and _is_label(label) for label in labels)


def _is_label(label: str) -> bool:
    # RFC 1123 letters, digits and hyphens; the underscore is common inside clusters.
    return label.isascii() and label.replace("-", "a").replace("_", "a").isalnum()


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
