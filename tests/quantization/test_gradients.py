import pytest
import torch

from audiocodec.quantization.gradients import check_method, pass_gradient


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(latents, quantized, weights, method):
    latents = latents.clone().requires_grad_()
    found = pass_gradient(quantized, latents, method)
    assert torch.equal(found, quantized)
    (found * weights).sum().backward()
    return latents.grad


def test_straight_through_passes_the_gradient_on():
    latents, quantized, weights = draw(3, 2, 5, 7)
    assert torch.equal(gradient(latents, quantized, weights, 'straight_through'), weights)


def test_rotation_is_the_transposed_rotation_and_scaling_onto_the_quantized_vector():
    latents, quantized, weights = draw(3, 2, 5, 7)
    found = gradient(latents, quantized, weights, 'rotation')
    for item in range(2):
        for frame in range(7):
            e, q = latents[item, :, frame], quantized[item, :, frame]
            matrix = jacobian(e, q)
            torch.testing.assert_close(matrix @ e, q)
            scale = q.norm() / e.norm()
            identity = torch.eye(5, dtype=torch.float64)
            torch.testing.assert_close(matrix @ matrix.t(), scale**2 * identity)
            torch.testing.assert_close(torch.linalg.det(matrix), scale**5)
            torch.testing.assert_close(found[item, :, frame], matrix.t() @ weights[item, :, frame])


def jacobian(e, q):
    """Return the matrix whose transposed maps gradients at q to gradients at e."""
    rows = [
        gradient(e[None, :, None], q[None, :, None], row[None, :, None], 'rotation')[0, :, 0]
        for row in torch.eye(len(e), dtype=torch.float64)
    ]
    return torch.stack(rows)


def test_rotation_keeps_the_angle_between_gradient_and_vector():
    latents, quantized, weights = draw(3, 2, 5, 7)
    found = gradient(latents, quantized, weights, 'rotation')

    def cosine(a, b):
        return torch.nn.functional.cosine_similarity(a, b, dim=1)

    torch.testing.assert_close(cosine(found, latents), cosine(weights, quantized))


def test_vectors_without_a_direction_are_straight_through():
    latents, quantized, weights = draw(3, 1, 5, 4)
    latents[..., 0] = 0
    quantized[..., 1] = 0
    quantized[..., 2] = latents[..., 2] = 1e-9
    found = gradient(latents, quantized, weights, 'rotation')
    assert torch.equal(found[..., :3], weights[..., :3])
    assert not torch.equal(found[..., 3], weights[..., 3])


def test_opposite_vectors_are_reflected():
    e = draw(5)
    matrix = jacobian(e, -2 * e)
    torch.testing.assert_close(matrix @ e, -2 * e)
    torch.testing.assert_close(matrix @ matrix.t(), 4 * torch.eye(5, dtype=torch.float64))
    nearly = jacobian(e, -e + 1e-9 * draw(5, seed=1))
    torch.testing.assert_close(nearly @ nearly.t(), torch.eye(5, dtype=torch.float64))


def test_equal_vectors_are_straight_through():
    latents, weights = draw(2, 1, 5, 4)
    torch.testing.assert_close(gradient(latents, latents, weights, 'rotation'), weights)


def test_other_methods_are_refused():
    check_method('rotation')
    with pytest.raises(ValueError, match='gradient=gumbel: expected one of straight_through, rot'):
        check_method('gumbel')
