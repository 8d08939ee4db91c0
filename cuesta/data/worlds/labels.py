"""What things of a world are (`Label`, the ids of semantic images) and what they are made of
(`Material`, which picks a texture).
"""

from __future__ import annotations

from enum import IntEnum
from typing import final


@final
class Label(IntEnum):
    """Name the ids of semantic images; `SKY` is where a ray meets nothing."""

    SKY = 0
    BUILDING = 1
    WINDOW = 2
    ROOF = 3
    GROUND = 4
    GRASS = 5
    VEGETATION = 6
    MOVING = 7
    WALL = 8
    FLOOR = 9
    CEILING = 10
    FURNITURE = 11
    OBJECT = 12


REMOVED = (Label.SKY, Label.VEGETATION, Label.MOVING)  # what a semantic mask takes out


@final
class Material(IntEnum):
    """Name the textures."""

    PLAIN = 0
    PLASTER = 1
    BRICK = 2
    ASHLAR = 3
    STONE = 4
    TILES = 5
    WOOD = 6
    GLASS = 7
    COBBLES = 8
    GRASS = 9
    SOIL = 10
    FOLIAGE = 11
    CLOTH = 12
    POSTER = 13
    PAVING = 14
    PARQUET = 15
    WALLPAPER = 16
    RUG = 17
    SPINE = 18
