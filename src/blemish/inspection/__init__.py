"""From a sample to a verdict: engine, map, threshold, result. No torch."""
