"""What goes over the lines between processes."""
