"""The dispatcher: farm, ledger, bindings and queues together."""
