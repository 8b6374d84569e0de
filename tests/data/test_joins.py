"""Sources whose pairs take rows of several files: joined by key, every row accounted for, whichever engine runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT

from gte.data import pairs as engine
from gte.data.locate import locate
from gte.data.pairs import make_pairs
from gte.data.sources import load_source


def lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_raw(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(zstandard.compress(text.encode()))


def threads(count: int) -> dict[str, str]:
    """Posts and comments in four files; some comments equal, some without what they answer."""
    posts = [{"id": f"p{n}", "title": f"Post {n % 90}"} for n in range(100)]
    comments = [
        {
            "id": f"c{n}",
            "parent_id": f"t3_p{n % 100}" if n % 3 else f"t1_c{(7 * n + 5) % count}",
            "body": f"Body {n % 500}",
        }
        for n in range(count)
    ]
    comments += [{"id": "x", "parent_id": "t3_none", "body": "lost"}] * 3 + [{"id": "y", "parent_id": [3], "body": "b"}]
    comments += [{"id": "z", "parent_id": "t3_p1", "body": "[deleted]"}] * 5
    parts = {"RC_1": comments[::3], "RC_2": comments[1::3], "RC_3": comments[2::3], "RS_1": posts}
    return {f"{name}.zst": lines(rows) for name, rows in parts.items()}


def joined(folder: Path, work: Path, buckets: int, monkeypatch) -> tuple:
    """(tally, pairs) of the Reddit comments in a folder."""
    source = load_source("reddit_post_comment")
    raws = locate(source, folder)
    monkeypatch.setattr(engine, "BUCKET_BYTES", 4 * sum(raw.bytes for raw in raws) // buckets)
    (work / "work").mkdir(parents=True)
    tally = make_pairs(source, raws, work / "pairs.parquet", work / "work" / "x", max_rejected=0.1)
    assert not list((work / "work").iterdir())
    return tally, pq.read_table(work / "pairs.parquet").to_pylist()


def test_a_join_accounts_for_every_row_and_hangs_on_no_number_of_buckets(tmp_path, monkeypatch):
    """Oracle: a dictionary of all texts by their names."""
    count = 3_000
    files = threads(count)
    write_raw(tmp_path / "reddit_post_comment", files)
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    texts = {f"t3_{row['id']}": row["title"] for row in rows["RS_1.zst"]}
    texts |= {f"t1_{row['id']}": row["body"] for name in rows if name[1] == "C" for row in rows[name]}
    expected: dict[tuple, tuple] = {}
    for name in sorted(rows):
        for number, row in enumerate(rows[name], 1):
            if str(row.get("parent_id")) in texts and row["body"] != "[deleted]":
                expected.setdefault((texts[row["parent_id"]], row["body"]), (name, number))
    results = [joined(tmp_path, tmp_path / f"{buckets}", buckets, monkeypatch) for buckets in (1, 40)]
    assert results[0] == results[1]
    tally, pairs = results[0]
    assert {(row["query"], row["document"]): (row["file"], row["row"]) for row in pairs} == expected
    assert tally.rejected == {
        "filtered: deleted comment": 5, "parent not in the files": 3, "wrong type of parent_id": 1,
    }  # fmt: skip
    assert tally.read == count + 9 == tally.kept + tally.duplicates + 9 and tally.duplicates > 100


@pytest.mark.slow
def test_a_join_on_a_ray_cluster_gives_the_same_pairs(tmp_path):
    """In processes of their own: Daft's engine is chosen once."""
    pytest.importorskip("ray", reason="pip install ray")
    write_raw(tmp_path / "reddit_post_comment", threads(2_000))
    code = (
        "import sys; from pathlib import Path; from gte.data.pairs import make_pairs, use_engine\n"
        "from gte.data.locate import locate\nfrom gte.data.sources import load_source\n"
        "use_engine(sys.argv[1]); folder = Path(sys.argv[2]); work = folder / sys.argv[1]; work.mkdir()\n"
        "source = load_source('reddit_post_comment')\n"
        "print(make_pairs(source, locate(source, folder), work / 'pairs.parquet', work / 'w', max_rejected=0.1))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    tallies = []
    for name in ("native", "ray"):
        command = [sys.executable, "-c", code, name, str(tmp_path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        tallies.append(done.stdout.splitlines()[-1])
    assert tallies[0] == tallies[1]
    native, ray = ((tmp_path / name / "pairs.parquet").read_bytes() for name in ("native", "ray"))
    assert native == ray
