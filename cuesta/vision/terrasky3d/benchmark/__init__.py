"""The benchmark of TerraSky3D: two-view pose, the poses of a scene, depth and clouds against the truth."""
