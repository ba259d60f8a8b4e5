"""What a model is worth: metrics with intervals, power, reports, and the ledger of methods."""
