"""From a sweep file to results on disk."""
