"""Synthetic worlds with exact truth: landmarks and rooms made by rules from a seed, rendered by rays.

Pictures come with depth, normals and ids; a simulated LiDAR maps the same world. Depths are exact to
float32's rounding.
"""
