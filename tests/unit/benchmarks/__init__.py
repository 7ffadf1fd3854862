"""The comparison with other proxies: its arithmetic, its tables, its load, and one run of the whole."""
