"""Who hears of a sweep while it runs."""
