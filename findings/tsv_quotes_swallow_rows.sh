#!/usr/bin/env bash
# Guess: a tab-separated file whose fields hold quotes as plain characters, as MIND's news.tsv and MS MARCO's files do, is
#        read row by row, or an unpaired quote is an error that names its line.
# Seen:  pandas.read_csv(sep="\t") and pyarrow.csv with delimiter="\t" take a quote at a field's start for the begin of a
#        quoted field that runs on over tabs and line ends to the next quote: of five articles three are left, one of them
#        holding three, without an error or a warning. A quoted word at a field's start loses its quotes.
# With:  pandas 3.1.1, pyarrow 25.0.1.
# Why:   rows are lost, texts of several articles are glued, and the number of columns is still right. pandas needs
#        quoting=csv.QUOTE_NONE, pyarrow quote_char=False, as this script does for comparison.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pandas==3.1.1 pyarrow==25.0.1

cat > "$work/finding.py" <<'PY'
import csv
import io

import pandas as pd
import pyarrow.csv as pc

ARTICLES = [  # id, category, title, abstract
    ("N1", "news", "The first title", "The first abstract"),
    ("N2", "news", '"Quoted start of a title', "The second abstract"),
    ("N3", "news", "The third title", "The third abstract"),
    ("N4", "news", '"Another one" said so', "The fourth abstract"),
    ("N5", "news", "The fifth title", '"Five" is a number'),
]
data = "".join("\t".join(article) + "\n" for article in ARTICLES).encode()


def by_pandas(**options) -> list[tuple]:
    frame = pd.read_csv(io.BytesIO(data), sep="\t", header=None, **options)
    return list(frame.itertuples(index=False, name=None))


def by_pyarrow(**options) -> list[tuple]:
    table = pc.read_csv(
        io.BytesIO(data),
        read_options=pc.ReadOptions(autogenerate_column_names=True),
        parse_options=pc.ParseOptions(delimiter="\t", newlines_in_values=True, **options),
    )
    return [tuple(row.values()) for row in table.to_pylist()]


assert by_pandas(quoting=csv.QUOTE_NONE) == ARTICLES == by_pyarrow(quote_char=False)  # what the file says
for name, found in (("pandas", by_pandas()), ("pyarrow", by_pyarrow())):
    print(f"{name}: {len(found)} of {len(ARTICLES)} rows")
    for row in found:
        print("   ", row)
    assert [row[0] for row in found] == ["N1", "N2", "N5"], "the behaviour has changed"
    assert "N3" in found[1][2] and "The third abstract" in found[1][2], "the behaviour has changed"
    assert found[2][3] == "Five is a number", "the behaviour has changed"
print("as described: two of five articles are inside another one's title")
PY
"$work/venv/bin/python" "$work/finding.py"
