"""Scenes: posed images and points, in our own layout and in the formats of others."""
