"""Load balancer for Microsoft RDP: every user back on the desktop they left."""

__version__ = "0.1.0"
