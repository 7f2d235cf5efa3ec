import sys

import pytest
from tracked import FakeWandb


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    for name in ('WANDB_MODE', 'WANDB_DISABLED'):
        monkeypatch.delenv(name, raising=False)
    for name in ('WANDB_LOGIN_TIMEOUT', 'WANDB_FINISH_TIMEOUT'):  # undone after the test
        monkeypatch.setenv(name, '1')
        monkeypatch.delenv(name)
    return fake
