import numpy as np
import torch

from object_discovery.data.raycast.camera import look_at_origin, project, ray_slopes

# an object of scene 0 of CLEVR with masks: published position, pixel of 320 x 240, and depth
POSITION, PIXEL, DEPTH = (-0.98078734, 1.8602544, 0.35), (181, 88), 13.133422
EYE = np.array([[7.48, -6.5, 5.34]])


def test_axes_are_orthonormal_and_upright() -> None:
    camera = look_at_origin(EYE + np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)))
    axes = np.stack([camera.right, camera.up, camera.forward], axis=1)
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-12)
    np.testing.assert_array_equal(camera.right[:, 2], 0)
    assert (camera.up[:, 2] > 0).all()


def test_the_frame_is_the_published_crop() -> None:
    pixel = project(look_at_origin(EYE), np.array([[POSITION]]))[0, 0] * 192 + [64, 29]
    np.testing.assert_allclose(pixel, PIXEL, atol=14)  # the published cameras are jittered
    depth = (np.array(POSITION) - EYE) @ look_at_origin(EYE).forward[0]
    np.testing.assert_allclose(depth, DEPTH, atol=0.8)


def test_projection_inverts_rays() -> None:
    camera = look_at_origin(EYE)
    u, v = ray_slopes(torch.tensor([0.125, 0.75], dtype=torch.float64))
    ray = camera.forward + u[0].item() * camera.right + v[1].item() * camera.up
    np.testing.assert_allclose(project(camera, EYE + 5 * ray), [[0.125, 0.75]], atol=1e-12)
