"""The hub is asked for only where a connection to it opens."""

import socket

import pytest

from gte import offline


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """No setting or proxy of this machine decides the answer."""
    monkeypatch.setattr(offline.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(offline.urllib.request, "getproxies", dict)
    offline.hub_reachable.cache_clear()
    yield
    offline.hub_reachable.cache_clear()


def test_an_open_port_is_reachable_and_a_closed_one_is_not(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(offline.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert offline.hub_reachable()
    offline.hub_reachable.cache_clear()
    assert not offline.hub_reachable()


def test_a_proxy_is_trusted_and_the_offline_setting_is_obeyed(monkeypatch):
    monkeypatch.setattr(offline.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(offline.urllib.request, "getproxies", lambda: {"http": "http://proxy"})
    assert offline.hub_reachable()
    offline.hub_reachable.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not offline.hub_reachable()
