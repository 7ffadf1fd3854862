"""The control socket: its protocol, the router's end and the command line's end."""
