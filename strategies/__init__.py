"""Which visual tokens stay: pure functions from evidence to indices, one method per file."""
