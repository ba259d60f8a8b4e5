"""Images: files, arrays and streams become the network's input, and maps become pictures."""
