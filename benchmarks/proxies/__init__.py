"""The proxies that are compared, and the address without any, in the order of the table."""

from typing import Final

from benchmarks.proxies.base import MissingProxy, Proxy, Running
from benchmarks.proxies.haproxy import HAProxy
from benchmarks.proxies.nginx import Nginx
from benchmarks.proxies.rdpbalancer import RdpBalancer

__all__ = ["PROXIES", "REFERENCE", "SCALING", "STANDARD", "MissingProxy", "Proxy", "Running"]

PROXIES: Final[dict[str, Proxy]] = {
    "haproxy": HAProxy(splice=False),
    "haproxy-splice": HAProxy(splice=True),
    "nginx": Nginx(),
    "rdpbalancer": RdpBalancer(relays=1),
    "rdpbalancer-inline": RdpBalancer(relays=0),
    "rdpbalancer-2": RdpBalancer(relays=2),
}
REFERENCE: Final = "haproxy"
STANDARD: Final = ("haproxy", "haproxy-splice", "nginx", "rdpbalancer")
SCALING: Final = ("rdpbalancer-inline", "rdpbalancer-2")
