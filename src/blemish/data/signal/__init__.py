"""Signals: recordings become windows of one rate, filter and scale."""
