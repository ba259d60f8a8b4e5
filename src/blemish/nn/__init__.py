"""Blocks that know shapes, not methods."""
