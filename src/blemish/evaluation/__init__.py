"""How good a model is: metrics with intervals, power, reports, and the ledger of methods."""
