"""Where pictures come from: a file each."""
