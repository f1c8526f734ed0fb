"""Results to pictures; opens on a laptop with neither a model nor a running Ray."""
