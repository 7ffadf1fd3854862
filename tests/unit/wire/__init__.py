"""The room `wire`: real captures with expected values, and every refusal."""
