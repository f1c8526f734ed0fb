"""From a sweep file to a plan."""
