"""What the service tells."""
