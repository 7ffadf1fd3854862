"""A long life with everything that can happen to a service; run by `make soak`, not with the tests."""
