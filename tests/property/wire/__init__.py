"""The room `wire`, on generated packets and on arbitrary bytes."""
