"""The lab, its pure parts: no socket."""
