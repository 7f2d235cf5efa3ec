import pytest


@pytest.fixture
def assert_same_codes():
    """Codes are equal, but where two entries are equally near: see `check`."""

    def check(model, latents, codes, expected, rounding=1e-5):
        """Compare codes [B, K, T] of latents [B, D, T].

        If latents are off by d, the squared distances to entries a and b change by 2 d.(a - b) against each other: the
        gap between them, divided by 2 |a - b|, is at most |d| where rounding alone decides. Codes of later levels
        follow from another residual: the first level that differs is the one to look at.
        """
        assert codes.shape == expected.shape
        books = model.quantizer.codebooks.embed.double()
        limit = rounding * latents.abs().max().item()
        different = (codes != expected).any(dim=1)
        assert different.float().mean() < 0.05
        for item, frame in different.nonzero().tolist():
            ours, theirs = codes[item, :, frame], expected[item, :, frame]
            level = int((ours != theirs).nonzero()[0])
            residual = latents[item, :, frame].double()
            residual = residual - sum(books[above, ours[above]] for above in range(level))
            near, other = books[level, ours[level]], books[level, theirs[level]]
            gap = (residual - near).square().sum() - (residual - other).square().sum()
            assert gap.abs() / (2 * (near - other).norm()) < limit, (item, frame, level)

    return check
