"""Ways in for people."""
