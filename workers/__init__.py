"""One model on one device, and the benchmarks it answers."""
