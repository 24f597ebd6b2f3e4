"""One script a claim: `python -m benchmarks.soak`. Each prints its numbers and exits 1 if the claim does not hold."""
