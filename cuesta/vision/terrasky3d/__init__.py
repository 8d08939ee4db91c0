"""TerraSky3D: photos to a posed, checked scene, and from there to a published data set."""
