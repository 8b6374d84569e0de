"""The hub is asked for only where a connection to it opens."""

import socket

import pytest

from gte import hub


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """No setting or proxy of this machine decides the answer."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    hub.hub_reachable.cache_clear()
    yield
    hub.hub_reachable.cache_clear()


def test_an_open_port_is_reachable_and_a_closed_one_is_not(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.hub_reachable()
    hub.hub_reachable.cache_clear()
    assert not hub.hub_reachable()


def test_a_proxy_is_trusted_and_the_offline_setting_is_obeyed(monkeypatch):
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"http": "http://proxy"})
    assert hub.hub_reachable()
    hub.hub_reachable.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.hub_reachable()
