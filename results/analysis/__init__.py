"""Figures of an experiment: accuracies, tests, costs, quality of what was kept."""
