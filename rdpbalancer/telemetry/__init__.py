"""What the service tells: Prometheus metrics and structured logs."""
