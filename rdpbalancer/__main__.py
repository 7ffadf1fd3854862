"""``python -m rdpbalancer`` is the command line."""

from rdpbalancer.cli import main

main()
