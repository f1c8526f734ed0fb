"""Ray Tune's view of a sweep."""
