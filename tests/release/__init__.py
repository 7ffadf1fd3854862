"""What runs before a release, too long for every change; `tests/release.json` keeps the last results."""
