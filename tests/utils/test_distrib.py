import pytest
import torch

from audiocodec.utils import distrib


def test_collectives_are_the_identity_with_one_worker():
    tensor = torch.arange(3.0)
    distrib.all_reduce_sum_([tensor])
    distrib.all_reduce_mean_([tensor])
    distrib.broadcast_([tensor])
    assert torch.equal(tensor, torch.arange(3.0))
    assert distrib.from_rank_zero(lambda: 5) == 5
    assert (distrib.rank(), distrib.world_size(), distrib.is_rank_zero()) == (0, 1, True)


def test_shared_draws_depend_on_every_number_and_on_nothing_else():
    def draw(*numbers):
        return tuple(
            torch.randint(2**62, (2,), generator=distrib.shared_generator(*numbers)).tolist()
        )

    streams = [
        draw(seed, purpose, count)
        for seed in range(6)
        for purpose in range(6)
        for count in range(6)
    ]
    torch.manual_seed(1)
    assert draw(5, 5, 5) == streams[-1]
    assert len(set(streams)) == 216
    assert draw(1, 2) != draw(2, 1)
    assert draw(0) != draw(0, 0)


def test_neighboring_counters_are_unrelated():
    draws = torch.stack(
        [torch.rand(4, generator=distrib.shared_generator(7, n)) for n in range(4000)]
    )
    assert torch.allclose(draws.mean(0), torch.full((4,), 0.5), atol=0.02)
    lagged = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    assert abs(lagged) < 0.05


@pytest.fixture
def as_worker(monkeypatch):
    """Makes this process a worker of several, to which worker 0 sends what is given; gives what was
    sent.
    """

    def make(rank, received=None):
        sent = []

        def broadcast(things, src):
            assert src == 0
            if rank == 0:
                sent.append(list(things))
            else:
                things[:] = received

        monkeypatch.setattr(distrib, 'is_distributed', lambda: True)
        monkeypatch.setattr(distrib, 'rank', lambda: rank)
        monkeypatch.setattr(distrib.distributed, 'broadcast_object_list', broadcast)
        return sent

    return make


def test_only_worker_zero_calls_and_all_get_the_result(as_worker):
    sent = as_worker(0)
    assert distrib.from_rank_zero(lambda: [1, 2]) == [1, 2]
    assert sent == [[[1, 2], None]]
    as_worker(3, [[1, 2], None])
    assert distrib.from_rank_zero(pytest.fail) == [1, 2]


def test_the_error_of_worker_zero_is_everybodys(as_worker):
    def failing():
        raise ValueError('no such file')

    sent = as_worker(0)
    with pytest.raises(ValueError, match='no such file'):
        distrib.from_rank_zero(failing)
    as_worker(3, sent[0])
    with pytest.raises(ValueError, match='no such file'):
        distrib.from_rank_zero(pytest.fail)


def test_item_generators_differ_by_item_and_depend_on_the_numbers_alone():
    def draws(items, *numbers):
        generators = distrib.item_generators(items, torch.device('cpu'), *numbers)
        return [torch.rand((), generator=generator).item() for generator in generators]

    first = draws(4, 1, 2, 3)
    assert len(set(first)) == 4
    assert draws(2, 1, 2, 3) == first[:2]
    assert not set(draws(4, 1, 2, 4)) & set(first)
    assert not set(draws(4, 2, 2, 3)) & set(first)
