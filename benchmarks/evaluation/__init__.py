"""What an evaluation costs. Run `python -m benchmarks.evaluation`, or `make bench`."""
