"""Ray caster for scenes of spheres, cubes and cylinders on a floor, after CLEVR."""
