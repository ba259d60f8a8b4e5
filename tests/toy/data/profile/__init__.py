"""Profiles: heights along a line, one a row of a text file `.prof`."""
