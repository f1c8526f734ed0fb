"""Experiments beside others: comparisons, exports, imports of original result files."""
