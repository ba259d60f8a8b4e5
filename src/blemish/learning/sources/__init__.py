"""Where a method gets its samples from: one file for each modality."""
