"""Programs that run ours and its peer side by side and write what they measured to `benchmarks/results/`."""
