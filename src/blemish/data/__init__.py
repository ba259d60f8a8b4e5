"""From files to arrays: decoding, geometry and the layouts of data sets. Imports no torch."""
