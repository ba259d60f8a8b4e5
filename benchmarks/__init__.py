"""Scripts that make the figures of docs/results, and the drawn worlds that they share with the tests."""
