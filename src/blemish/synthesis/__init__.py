"""Made defects.

A synthesizer is `(image, generator) -> (image', mask)`: image' differs from image inside the mask only, the mask is
never empty, and the same state of the generator gives the same bits.
"""
