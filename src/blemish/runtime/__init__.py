"""The inspecting side: engines that run a graph, and the line from a file to a verdict. No torch."""
