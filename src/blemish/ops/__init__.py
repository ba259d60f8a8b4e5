"""Pure tensor functions: no state, no files, no method names."""
