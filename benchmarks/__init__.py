"""Benchmarks of codehornets-ai and of the libraries it is compared with."""
