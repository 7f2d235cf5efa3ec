import torch

from audiocodec.modules import Snake, make_activation


def test_values():
    snake = Snake(2)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([1.0, 3.0])[None, :, None])
    x = torch.tensor([[[0.5, -2.0], [0.5, -2.0]]])
    expected = torch.stack([x[0, 0] + x[0, 0].sin() ** 2, x[0, 1] + (3 * x[0, 1]).sin() ** 2 / 3])
    torch.testing.assert_close(snake(x)[0], expected)


def test_a_frequency_of_zero_is_the_identity():
    snake = Snake(1)
    with torch.no_grad():
        snake.alpha.zero_()
    x = torch.randn(1, 1, 8)
    assert torch.equal(snake(x), x)


def test_gradients():
    snake = Snake(3).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(snake, (x,))
    snake(x).sum().backward()
    assert snake.alpha.grad.abs().sum() > 0


def test_is_created_by_name():
    assert make_activation('audiocodec.modules.Snake', channels=5).alpha.shape == (1, 5, 1)
