"""The ledger: methods x data sets x seeds, each cell run once, kept with its settings, and summed up from the files."""
