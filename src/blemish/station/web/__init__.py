"""The web side of a station: HTTP API and pages."""
