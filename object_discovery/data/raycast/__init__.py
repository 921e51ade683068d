"""Scenes of spheres, cubes and cylinders on a floor: what stands where, and what a camera sees of it."""
