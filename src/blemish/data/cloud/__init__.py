"""Point clouds: files become points and what points out of the material, and maps become pictures."""
