"""How `make` fills its virtual environment, from a package index on loopback."""
