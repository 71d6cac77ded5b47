"""Pages about what was trained and scored: `runs` compares training runs, `page` evaluations."""
