"""From good samples to a model: options, splits, training, the frozen graph and its certificate."""
