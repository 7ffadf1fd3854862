"""Proof by real programs from Debian packages: xfreerdp, rdesktop, xrdp, HAProxy."""
