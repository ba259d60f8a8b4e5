"""Synthetic defects.

A synthesizer is `(image, generator) -> (image', mask)`: image' differs from image inside the mask only, the mask is
never empty, and the same state of the generator gives the same bits. Images are uint8 (H, W, 3), masks bool (H, W);
numpy's and OpenCV's global random states are neither read nor changed.

perlin    gradient noise over one, two or three axes, on grids and at points
masks     where a defect lies: Perlin islands, boxes, blobs, threads
texture   what it looks like: drawn textures, crops of images; PasteTexture; whole synthetic scenes to distil with
cutpaste  defects made of the image itself
graded    defects of graded sizes, made of the image itself, to compare methods and options with
makers    those of them that a method may ask for by name
surface3d defects on point clouds; scan, geometry: what is known of their surface
seeding the random generator of one output
probes    to measure with, and never to learn from
"""
