"""Each module of the package alone: no loop beyond the test, no process, no network."""
