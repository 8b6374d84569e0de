"""Checkpoints in an object store: an S3 that runs on localhost."""

import logging
import re
import time
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from logs import curve
from trainings import TINY, Begun, lasting, wait_for

from gte.errors import UserError
from gte.models.load import load_encoder
from gte.models.saved import newest_first
from gte.remote import is_address, local_copy, place

RUN = "s3://runs/one"


@pytest.fixture(scope="module")
def address():
    """Where a store runs."""
    moto = pytest.importorskip("moto.server", reason="pip install -r requirements-test.txt")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def s3(address, monkeypatch):
    """A client of a store with an empty bucket `runs`, to which the environment leads."""
    import boto3
    import s3fs

    environment = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key"}
    for name, value in (environment | {"AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"")  # what tests before have left
    client.create_bucket(Bucket="runs")
    return client


def names(client) -> list[str]:
    return sorted(item["Key"] for item in client.list_objects_v2(Bucket="runs").get("Contents", []))


def test_a_run_that_keeps_its_checkpoints_in_s3_is_killed_and_goes_on(s3, prepared, tmp_path, script):
    whole = Begun(tmp_path, *lasting(prepared, "stage.steps=30", "out=whole"))
    assert whole.wait() == 0, whole.said
    there = [f"checkpoint_dir={RUN}", "keep_last=2", "out=killed"]
    killed = Begun(tmp_path, *lasting(prepared, "stage.steps=30", *there))
    wait_for(lambda: len(names(s3)) > 1, killed)
    killed.kill()
    assert killed.wait() == -9, killed.said
    time.sleep(1.1)  # a store's times are whole seconds, and the newest is tried first
    s3.put_object(Bucket="runs", Key="one/step-9999999.ckpt", Body=b"PK cut")
    last = Begun(tmp_path, *lasting(prepared, "stage.steps=30", *there))
    assert last.wait() == 0, last.said
    assert "step-9999999.ckpt is truncated" in last.said and f"{RUN}/last.ckpt" in last.said
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert not (tmp_path / "killed" / "checkpoints").exists()
    steps = [f"one/step-{step}.ckpt" for step in ("0000027", "0000030", "9999999")]
    assert names(s3) == ["one/last.ckpt", *steps]  # the newest two of this run, and what was put there
    code, _, err = script("export", f"checkpoint={RUN}", "out=model")
    assert code == 0, err
    ours = load_encoder("model").state_dict()
    for key, value in load_encoder("whole").state_dict().items():
        assert torch.equal(ours[key], value)


def raising(error: Exception):
    def raise_it(*_, **__):
        raise error

    return raise_it


def test_what_another_writer_puts_into_s3_is_seen_by_a_process_that_has_looked_before(s3):
    folder = place("s3://runs/shared")
    s3.put_object(Bucket="runs", Key="shared/last.ckpt", Body=b"old")
    assert [file.name for file in newest_first(folder)] == ["last.ckpt"]
    assert local_copy(folder / "last.ckpt").read_bytes() == b"old"
    s3.put_object(Bucket="runs", Key="shared/last.ckpt", Body=b"new")
    s3.put_object(Bucket="runs", Key="shared/step-0000007.ckpt", Body=b"step")
    assert {file.name for file in newest_first(folder)} == {"last.ckpt", "step-0000007.ckpt"}
    assert local_copy(folder / "last.ckpt").read_bytes() == b"new"


def test_models_and_checkpoints_are_read_from_s3(s3, script, run, small_model, tmp_path):
    last = run[0] / "checkpoints" / "last.ckpt"
    s3.upload_file(str(last), "runs", "two/checkpoints/last.ckpt")
    for file in small_model.iterdir():
        s3.upload_file(str(file), "runs", f"model/{file.name}")
    for there, here in (("two", last), ("two/checkpoints", last), ("model", small_model)):
        found, ours = load_encoder(f"s3://runs/{there}").state_dict(), load_encoder(here).state_dict()
        assert all(torch.equal(found[key], value) for key, value in ours.items())
    for address, line in (
        ("s3://runs/three", "s3://runs/three does not exist"),
        ("s3://gone/model", "s3://gone/model does not exist"),
        ("gs://runs/one", "gs://runs/one: .*gcsfs.* requirements-remote.txt"),
        ("what://runs/one", "what://runs/one: .*requirements-remote.txt"),
    ):
        assert re.search(line, script.refused("export", f"checkpoint={address}", "out=model"))


def test_a_store_that_refuses_ends_the_run_in_one_line(s3, script, prepared, monkeypatch):
    run = [*TINY, f"data.dir={prepared}", "checkpoint_every=2", "stage.steps=6", "out=run"]
    line = script.refused("train", *run, "checkpoint_dir=s3://gone/run")
    assert "cannot look for checkpoints in s3://gone/run: The specified bucket does not exist" in line
    monkeypatch.setattr("s3fs.S3File.commit", raising(PermissionError("Access Denied")))
    line = script.refused("train", *run, f"checkpoint_dir={RUN}")
    assert (
        f"cannot write {RUN}/step-0000002.ckpt: Access Denied; no checkpoint is kept" in line
        and "resume=auto out=" in line
    )
    line = script.refused("train", *run, "resume=s3://runs/none.ckpt")
    assert "s3://runs/none.ckpt does not exist" in line


def test_deepspeed_which_writes_to_directories_only_refuses_an_address():
    pytest.importorskip("deepspeed")
    from gte.training.zero import Zero

    trainer = SimpleNamespace(checkpoint_callback=SimpleNamespace(folder=place("memory://run")))
    with pytest.raises(UserError, match="set checkpoint_dir=null or to a directory"):
        Zero().setup(trainer)


def test_which_paths_are_addresses():
    assert all(map(is_address, ("s3://bucket/run", "gs://b", "abfs://c@a/x")))
    assert not any(map(is_address, ("http://x.org/m", "file:///x", "runs/one", "/tmp/a", "//x", "C:/runs")))
