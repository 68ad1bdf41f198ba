"""Models, as published and as trained here.

Shapes: B batch, T time, C channels, H heads, D head width, E experts, K seeds at once,
V vocabulary.
"""
